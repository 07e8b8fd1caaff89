"""One tensor of a .qf file in detail: its facts, its roles, histograms of its codes and values."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat import linear, store
from qformat.errors import QFormatError, UnsupportedError
from qformat.report import histogram, numbers
from qformat.report.layout import Column, Line, Table, clip
from qformat.report.summary import fact, indented
from qformat.tensor import Tensor
from qformat.text import safe_text

LARGEST = 1 << 28  # weights up to which all roles are looked at
SAMPLE = 1 << 22  # weights decoded for the histograms: rows evenly spread when a tensor has more


def tensor(path: str | os.PathLike[str], name: str, width: int | None) -> Iterator[Line]:
    """All that there is to say of the tensor `name`."""
    with store.open(path) as model:
        if name not in model:
            raise QFormatError("no such tensor", file=model.path, tensor=name)
        shown = model[name]
        title = safe_text(name)
        yield [(title if width is None else clip(title, width, "middle"), "title")]
        yield []
        for key, value in _facts(shown):
            if value:
                yield from fact(key, value, width)
        yield []
        # beyond some size the roles are only named: unpacked they would take as many bytes as the tensor has weights
        arrays = shown.arrays() if math.prod(shown.shape) <= LARGEST else {}
        yield from _roles(shown, arrays, width)
        yield from _histograms(shown, arrays.get("codes"), width)


def _facts(shown: Tensor) -> Iterator[tuple[str, str]]:
    record = shown.record
    yield "shape", f"{numbers.shape(shown.shape)} of {shown.dtype}"
    yield "coding", ", ".join(_coding(shown))
    yield "size", f"{numbers.size(shown.nbytes)}, {numbers.bits(shown.bits_per_weight)} bits per weight"
    yield "error", numbers.error(shown.error)
    yield "max error", numbers.error(shown.max_error)
    yield "place", f"byte {numbers.exact(record.offset)}, {numbers.exact(record.stored)} bytes"
    yield "digest", record.digest.hex()
    yield "stands for", safe_text(record.target) if record.target is not None else ""


def _coding(shown: Tensor) -> Iterator[str]:
    scheme = shown.scheme
    yield str(shown.coding)
    if shown.method:
        yield f"method {safe_text(shown.method)}"
    if shown.bits is not None:
        yield numbers.plural(shown.bits, "bit")
    if shown.group_size is not None:
        yield f"groups of {shown.group_size}"
    layout = getattr(scheme.coding, "layout", None)
    if layout:
        yield f"{layout} layout"
    if scheme.transposed:
        yield "stored (in, out)"
    for kind, steps in (
        ("before", scheme.transforms),
        ("after", scheme.output_transforms),
        ("plus", scheme.corrections),
    ):
        for step in steps:
            yield f"{kind} {type(step).__name__.lower()}"


def _roles(shown: Tensor, arrays: Mapping[str, NDArray[Any]], width: int | None) -> Iterator[Line]:
    table = Table(
        [
            Column("role", elastic=True, least=8),
            Column("shape", keep=2),
            Column("dtype", keep=1),
            Column("values", keep=3),
        ]
    )
    for name, role in linear.roles(shown.scheme, shown.matrix_shape, shown.parameters).items():
        span = _span(arrays[name]) if name in arrays else ""
        table.add(safe_text(name), numbers.shape(role.shape), role.dtype, span)
    yield from indented(table.lines(None if width is None else max(width - 2, 1)))


def _span(array: NDArray[Any]) -> str:
    """Least and largest of the finite values."""
    values = array.astype(np.float32) if array.dtype.kind == "V" else array  # bfloat16 and fp8
    if values.dtype.kind not in "fiu":
        return ""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return f"{finite.min():.4g} … {finite.max():.4g}" if finite.size else ""


def _histograms(shown: Tensor, codes: NDArray[Any] | None, width: int | None) -> Iterator[Line]:
    if codes is not None and codes.size and shown.bits is not None and shown.bits <= 8:
        yield []
        yield from histogram.codes(codes, shown.bits, codes.dtype.kind == "i", width)
    if shown.dtype.startswith("complex"):
        return
    values, note = _sample(shown)
    if values.size:
        spread = histogram.spread(values)
        yield []
        yield from histogram.values(values, width)
        yield []
        text = ", ".join(f"{key} {value:.4g}" for key, value in spread.items())
        yield [(clip(f"  {text}{note}", width or 1000), "dim")]


def _sample(shown: Tensor) -> tuple[NDArray[np.float32], str]:
    """Decoded values, all or of evenly spread rows, and a note that says which."""
    total = math.prod(shown.shape)
    if total <= SAMPLE or len(shown.shape) < 2:
        return shown.decode(), ""
    length = shown.shape[0]
    rows = np.unique(np.linspace(0, length - 1, max(SAMPLE // (total // length), 1)).astype(np.int64))
    try:
        return shown.decode(rows=rows), f" ({numbers.exact(len(rows))} of {numbers.exact(length)} rows)"
    except UnsupportedError:  # transforms that mix rows leave no way to decode a few
        return shown.decode(), ""
