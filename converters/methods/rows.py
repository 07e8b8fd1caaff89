"""`eetq` and `int8`: 8-bit codes with one scale per output row.

EETQ (NetEase-FuXi/EETQ): s = max|w| / 128, code = clip(round(w / s), −128, 127), ties away from zero. The codes are
made with s in float32 and the stored scale is rounded to float16 afterwards, as in the original; +max saturates.

LLM.int8 (arXiv 2208.07339 §2): the weight is first rounded to float16; s = max|w|, code = round(w · (1 / s · 127)), and
weight = code · (s / 127) where s / 127 is s times float32(1/127). The original keeps s (its `SCB`): it is the stored
scale times 127, rounded to float16. Inputs with a feature beyond the outlier threshold are for the runtime.
"""

from __future__ import annotations

import numpy as np

from qformat.codings.grammar import Affine, Block, Dense
from qformat.converters.methods import affine, lanes, native
from qformat.converters.methods.base import Array, Coded, Kernel, Method, Option, Options, Shape, State, largest_loop
from qformat.errors import SourceError
from qformat.schemes import Activations, Scheme

INVERSE_127 = np.float32(1.0 / 127.0)
_SMALLEST = np.float32(2.0**-118)
_OVERFLOW = 65520.0  # rounds to a float16 that is infinite

_ROW: dict[str, Option] = {"bits": Option(8, (8,)), "group_size": Option(None, (None,))}


def _nearest_away(values: Array) -> Array:
    """Nearest integers, ties away from zero."""
    even = lanes.nearest(values)
    rest = values - even
    up = ((rest == 0.5) & (values > 0)).astype(np.float32) - ((rest == -0.5) & (values < 0)).astype(np.float32)
    away: Array = even + up
    return away


@np.errstate(all="ignore")
def rows_loop(weight: Array, eetq: bool, dtype: str) -> tuple[Array, Array, Array]:
    """Twin of the native loop: codes int8 (n, K), scales float32 (n, 1) as stored, errors (n, 3)."""
    groups = lanes.cut(weight, max(weight.shape[1], 1))
    low, high = groups.low, groups.high
    largest = np.where(high > -low, high, -low)
    none = largest < _SMALLEST
    if eetq:
        step = largest / np.float32(128)
        scale = lanes.store(step, dtype)
        codes = _nearest_away(lanes.clip(groups.x / step, -128, 127))
    else:
        x, largest = lanes.store(groups.x, "float16"), lanes.store(largest, "float16")
        none = largest < _SMALLEST
        step = (np.float32(1) / largest) * np.float32(127)  # torch's 127 / largest
        scale = largest * INVERSE_127
        codes = lanes.nearest(lanes.clip(x * step, -127, 127))
    scale, codes = np.where(none, np.float32(0), scale), np.where(none, np.float32(0), codes)
    return lanes.paste(groups, codes).astype(np.int8), scale[:, :, 0, 0], lanes.measure(groups, scale * codes)


def _coding(dtype: str) -> Affine:
    return Affine(
        bits=8, signed=True, group=Block(rows=1, columns=None), scales=Dense(dtype=dtype), layout="panel"
    )  # fmt: skip


def eetq_scheme(options: Options, shape: Shape, dtype: str) -> Scheme:
    """Signed 8-bit codes, one scale per row."""
    return Scheme(coding=_coding(affine.stored_dtype(options)), method="eetq")


def eetq_code(weight: Array, options: Options, state: State) -> Coded:
    """See the module."""
    dtype = options["scale_dtype"]
    codes, scales, errors = native.loop("scaled_rows", rows_loop)(weight, True, dtype)
    arrays = {"codes": codes, "scales": affine.narrow("scale", scales, dtype)}
    return Coded(eetq_scheme(options, weight.shape, ""), (), arrays, errors)


def int8_scheme(options: Options, shape: Shape, dtype: str) -> Scheme:
    """Signed 8-bit codes, one float32 scale per row, and the outlier threshold for the runtime."""
    activations = Activations(bits=8, granularity="token", outlier_threshold=float(options["threshold"]))
    return Scheme(coding=_coding("float32"), activations=activations, method="int8")


def int8_code(weight: Array, options: Options, state: State) -> Coded:
    """See the module."""
    largest = native.loop("largest", largest_loop)(weight)
    if largest >= _OVERFLOW:
        raise SourceError("a weight overflows float16, which int8 rounds to first", found=largest)
    codes, scales, errors = native.loop("scaled_rows", rows_loop)(weight, False, "float32")
    return Coded(int8_scheme(options, weight.shape, ""), (), {"codes": codes, "scales": scales}, errors)


EETQ = Method(
    name="eetq",
    options={**_ROW, "scale_dtype": affine.SCALE_DTYPE},
    scheme=eetq_scheme,
    code=eetq_code,
    granularity=affine.granularity,
    look=affine.look,
    combine=affine.combine,
    settle=affine.settle,
    screens=True,
    kernel=lambda options: Kernel("scaled_rows", symmetric=True),
)

INT8 = Method(
    name="int8",
    options={**_ROW, "threshold": Option(6.0, lambda v: isinstance(v, int | float) and 0 <= v < 1e6, "0 or more")},
    scheme=int8_scheme,
    code=int8_code,
    granularity=affine.granularity,
    look=lambda weight, options, first_row, shape: {},
    combine=lambda states: {},
    two_pass=lambda options: False,
    kernel=lambda options: Kernel("scaled_rows", ceiling=float(np.nextafter(np.float32(_OVERFLOW), np.float32(0)))),
)
