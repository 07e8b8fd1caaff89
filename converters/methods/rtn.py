"""`rtn`: round to nearest, the baseline.

Symmetric: a signed scale s = −(the weight of largest magnitude) / 2^(b−1), so that this weight is code −2^(b−1) exactly
and no code is wasted; weight = s · code. Asymmetric: the range is widened to hold zero, s = (max − min) / (2^b − 1),
an integer zero z = round(−min / s), weight = s · (code − z). Codes are rounded against the stored scale.
"""

from __future__ import annotations

import numpy as np

from qformat.converters.methods import affine, lanes, native
from qformat.converters.methods.base import Array, Coded, Kernel, Option, Options, Shape, State
from qformat.schemes import Scheme


@np.errstate(all="ignore")  # what overflows is refused by the caller; groups without a range are replaced
def symmetric_loop(weight: Array, group: int, bits: int, dtype: str) -> tuple[Array, Array, Array]:
    """Twin of the native loop: codes int8 (n, K), scales float32 (n, G) as stored, row errors (n, 3)."""
    groups = lanes.cut(weight, group)
    n = np.float32(2 ** (bits - 1))
    low, high = groups.low, groups.high
    largest = np.where(high > -low, high, low)
    scale = lanes.store(np.where(largest == 0, np.float32(0), -largest / n), dtype)
    codes = lanes.nearest(lanes.clip(groups.x * lanes.inverse(scale), -n, n - 1))
    rows = lanes.measure(groups, scale * codes)
    return lanes.paste(groups, codes).astype(np.int8), scale[:, :, 0, 0], rows


@np.errstate(all="ignore")  # what overflows is refused by the caller; groups without a range are replaced
def asymmetric_loop(weight: Array, group: int, bits: int, dtype: str) -> tuple[Array, Array, Array, Array]:
    """Twin of the native loop: codes uint8 (n, K), scales float32 (n, G) as stored, zeros uint8 (n, G), row errors."""
    groups = lanes.cut(weight, group)
    most = np.float32(2**bits - 1)
    low, high = np.minimum(groups.low, np.float32(0)), np.maximum(groups.high, np.float32(0))
    scale = lanes.store((high - low) / most, dtype)
    inverse = lanes.inverse(scale)
    zero = lanes.nearest(lanes.clip(-low * inverse, 0, most))
    steps = lanes.nearest(lanes.clip(groups.x * inverse, -zero, most - zero))
    rows = lanes.measure(groups, scale * steps)
    codes = lanes.paste(groups, steps + zero).astype(np.uint8)
    return codes, scale[:, :, 0, 0], zero[:, :, 0, 0].astype(np.uint8), rows


def scheme(options: Options, shape: Shape, dtype: str) -> Scheme:
    """Affine groups of one row; signed codes, or integer zeros of as many bits as the codes."""
    symmetric = bool(options["symmetric"])
    return affine.affine_scheme("rtn", options, shape, signed=symmetric, third=None if symmetric else "packed")


def code(weight: Array, options: Options, state: State) -> Coded:
    """See the module."""
    plan = scheme(options, weight.shape, "")
    group, bits, dtype = affine.group_length(options, weight.shape), options["bits"], options["scale_dtype"]
    if options["symmetric"]:
        codes, scales, rows = native.loop("rtn_symmetric", symmetric_loop)(weight, group, bits, dtype)
        arrays = {"codes": codes, "scales": affine.narrow("scale", scales, dtype)}
    else:
        codes, scales, zeros, rows = native.loop("rtn_asymmetric", asymmetric_loop)(weight, group, bits, dtype)
        arrays = {"codes": codes, "scales": affine.narrow("scale", scales, dtype), "zeros.codes": zeros}
    return Coded(plan, (), arrays, rows)


def kernel(options: Options) -> Kernel:
    """See `Kernel`."""
    return Kernel("rtn_symmetric") if options["symmetric"] else Kernel("rtn_asymmetric", third="zeros.codes")


METHOD = affine.method(
    name="rtn",
    options={**affine.AFFINE_OPTIONS, "symmetric": Option(False, (False, True))},
    scheme=scheme,
    code=code,
    kernel=kernel,
)
