"""A coded matrix made ready for products: views of its stored extent, in the form that the native kernels take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qformat import codings
from qformat.codings import panel, tables
from qformat.codings.grammar import Additive, Affine, Coding, Dense, Lookup
from qformat.codings.parts import Arrays, Read, Window, whole
from qformat.codings.tiles import LANES
from qformat.dtypes import itemsize
from qformat.errors import KernelError
from qformat.kernels import _native, additive, strips
from qformat.kernels.strips import Strips

Panels = _native.Panels
Codes = _native.Additive
Native = Panels | Codes | Strips  # what decodes natively

FEATURES = frozenset(_native.cpu_features())

# Kernels with registers of 64 bytes; `amx` differs in products with many rows only.
WIDE = ("amx", "avx512")

Mode = Literal["exact", "int8"]

# How a number is stored, as kernels.h numbers it.
_NONE, _PACKED, _EXTERNAL = 0, 4, 5
_FLOATS = {"float16": 1, "bfloat16": 2, "float32": 3}

_INT8, _FLOAT32, _BFLOAT16, _ROUNDED = 0, 1, 2, 3


@cache
def float_type(dtype: np.dtype[Any]) -> int | None:
    """The kernels' number of a float type in the machine's byte order; None for others. (`dtype.name` is slow.)"""
    return _FLOATS.get(dtype.name) if dtype.isnative else None


# Rows that the reference decodes at a time, in weights.
_TILE = 1 << 22


@dataclass(frozen=True)
class Operand:
    """`rows` of a matrix (N, K) to multiply with; `native` is what the native kernels read of them, None where only
    decoding serves."""

    coding: Coding
    shape: tuple[int, int]
    arrays: Arrays
    native: Native | NDArray[np.uint8] | None
    rows: range

    def matvec(self, x: NDArray[Any], mode: Mode, kernel: str, rounded: bool = False) -> NDArray[np.float32]:
        """x (batch, K) of float32, float16 or bfloat16 times the rows, transposed: float32 (batch, rows).

        `exact` keeps the dtype of x and accumulates in float32; `int8` quantizes x in runs of 64 inputs, or, for
        additive codes of up to 8 bits, the tables of partial products; where weights are decoded first, in strips, it
        is as `exact`. `rounded`: for bfloat16 x the entries of a lookup table may be rounded to bfloat16 as well, as a
        dense layer's weights are.
        """
        if x.ndim != 2 or x.shape[1] != self.shape[1]:
            raise KernelError("x has the wrong shape", expected=f"(batch, {self.shape[1]})", found=x.shape)
        kind = float_type(x.dtype)
        if kind is None:
            raise KernelError("x has the wrong dtype", expected=", ".join(_FLOATS), found=x.dtype)
        native = self.native
        out = np.empty((len(x), len(self.rows)), np.float32)
        if kernel == "reference" or native is None or out.size == 0:
            return self._reference(np.ascontiguousarray(x, dtype=np.float32), out)
        if isinstance(native, Panels):
            wide = kind != _FLOATS["bfloat16"]
            how = _INT8 if mode == "int8" else _FLOAT32 if wide else _ROUNDED if rounded else _BFLOAT16
            _native.matvec(kernel, native, np.ascontiguousarray(x).view(np.uint8), kind, how, out)
            return out
        values = np.ascontiguousarray(x, dtype=np.float32)
        if isinstance(native, np.ndarray):
            assert isinstance(self.coding, Dense)
            _native.matvec_dense(kernel, native, *out.shape[1:], self.shape[1], _FLOATS[self.coding.dtype], values, out)
        elif isinstance(native, Strips):
            _native.matvec_strips(kernel, native, values, out)
        else:
            _native.matvec_additive(kernel, native, values, mode == "exact", out)
        return out

    def _reference(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> NDArray[np.float32]:
        first, inputs = self.rows.start, self.shape[1]
        step = max(_TILE // max(inputs, 1), 1)
        for top in range(first, self.rows.stop, step):
            bottom = min(top + step, self.rows.stop)
            tile = codings.decode(self.coding, self.shape, self.arrays, Window(top, bottom, 0, inputs))
            with np.errstate(over="ignore", invalid="ignore"):  # what x holds is x's; native kernels warn of nothing
                np.matmul(x, tile.T, out=out[:, top - first : bottom - first])
        return out


def decode_rows(
    coding: Coding, shape: tuple[int, int], arrays: Arrays, read: Read, rows: range, out: NDArray[Any], kernel: str
) -> bool:
    """Rows of the matrix, decoded natively into `out`; whether that can be done here.

    The result is what the numpy decoder gives, cast from float32.

    Args:
        read: bytes of the extent; only those of the rows, or of the panels that hold them, are asked for.
        out: (rows, K), C-contiguous, of one of the floats that kernels know (else the answer is no).
    """
    kind = float_type(out.dtype)
    if 0 in shape or kernel == "reference" or kind is None or not rows:
        return False
    geometry = codings.geometry(coding, shape)
    if geometry is None:
        return strips.decode_rows(coding, shape, arrays, read, rows, kind, out, kernel)
    if isinstance(coding, Additive):
        return additive.decode_rows(coding, shape, arrays, read, rows, kind, out, kernel)
    first, last = rows.start // panel.ROWS, -(-rows.stop // panel.ROWS)
    held = range(first * panel.ROWS, min(last * panel.ROWS, shape[0]))
    assert isinstance(coding, Affine | Lookup)
    body = read("panels", first * geometry.panel_bytes, last * geometry.panel_bytes)
    native = _panels(coding, shape, arrays, body, held)
    if native is None:
        return False
    into = out if held == rows else np.empty((len(held), shape[1]), out.dtype)
    decode_into(kernel, native, 0, last - first, into)
    if into is not out:
        out[...] = into[rows.start - held.start : rows.stop - held.start]
    return True


def matvecs(
    kernel: str, panels: Sequence[Panels], x: int, rows: int, dtype: str, mode: Mode, outs: Sequence[int]
) -> None:
    """`Operand.matvec` of several matrices with the same x, rounded to its dtype, for callers with memory of their own.

    x is made ready once, and the threads share one loop over all panels; each result is what it would be alone.

    Args:
        kernel: any but the reference.
        panels: (N, K) each, of one K.
        x: the address of (rows, K) numbers of `dtype`, in order.
        outs: an address for each of `panels`, of (rows, N) numbers of `dtype`.
    """
    how = _INT8 if mode == "int8" else _BFLOAT16 if dtype == "bfloat16" else _FLOAT32
    _native.matvecs(kernel, panels, x, rows, _FLOATS[dtype], how, outs)


def decode_into(kernel: str, native: Native, first: int, last: int, out: NDArray[Any]) -> None:
    """Panels [first, last) of 16 rows into `out`, C-contiguous rows of a float type."""
    kind, stored = _FLOATS[out.dtype.name], out.reshape(-1).view(np.uint8)
    top = first * panel.ROWS
    if isinstance(native, Panels):
        _native.decode(kernel, native, first, last, kind, stored)
    elif isinstance(native, Strips):
        _native.decode_strips(kernel, native, top, top + len(out), kind, stored)
    else:
        _native.decode_additive(kernel, native, top, top + len(out), kind, stored)


def _stretch(height: int, size: int, rows: range, total: int) -> tuple[int, int] | None:
    """Which bytes hold `rows` of `total`, `height` of them in `size` bytes; None where these hold others as well."""
    if rows.start % height or (rows.stop % height and rows.stop != total):
        return None
    return rows.start // height * size, -(-rows.stop // height) * size


def prepare(coding: Coding, shape: tuple[int, int], arrays: Arrays, read: Read, rows: range | None = None) -> Operand:
    """An operand of some rows (None: all) over arrays that have been checked; codes are not copied.

    Nested scales and zeros are decoded once, to float32: only codes and, in panels, first-level floats and packed
    integers are read in place. What `read` gives must stay alive and unchanged.
    """
    rows = range(shape[0]) if rows is None else rows
    native = _view(coding, shape, arrays, read, rows) if rows and shape[1] else None
    return Operand(coding, shape, arrays, native, rows)


def _view(
    coding: Coding, shape: tuple[int, int], arrays: Arrays, read: Read, rows: range
) -> Native | NDArray[np.uint8] | None:
    """What the native kernels read of `rows`."""
    if isinstance(coding, Dense) and coding.dtype in _FLOATS:
        size = shape[1] * itemsize(coding.dtype)
        return read("values", rows.start * size, rows.stop * size)
    geometry = codings.geometry(coding, shape)
    if geometry is None:
        return strips.view(coding, shape, arrays, read, rows)
    if isinstance(coding, Additive) and not additive.is_native(coding):
        return None
    height = panel.ROWS if isinstance(geometry, panel.Panels) else LANES
    held = _stretch(height, geometry.panel_bytes, rows, shape[0])
    if held is None:
        return None
    body = read("panels", *held)
    if isinstance(coding, Additive):
        return additive.view(coding, shape, arrays, body, rows)
    assert isinstance(coding, Affine | Lookup)
    return _panels(coding, shape, arrays, body, rows)


def _panels(
    coding: Affine | Lookup, shape: tuple[int, int], arrays: Arrays, body: NDArray[np.uint8], rows: range
) -> _native.Panels | None:
    """The native view of `rows`, whole panels that lie in `body`; None for what the native kernels do not read."""
    geometry = codings.panels(coding, shape)
    if geometry is None or (isinstance(coding, Lookup) and (coding.offset is not None or coding.table == "row")):
        return None
    second = "offsets" if isinstance(coding, Affine) and coding.offsets is not None else "zeros"
    scales, scale_values = _numbers("scales", coding.scales, geometry, coding, shape, arrays, rows)
    shifts = getattr(coding, second, None)
    zeros, zero_values = _numbers(second, shifts, geometry, coding, shape, arrays, rows)
    zeros_at = geometry.header - sum(
        panel.header_bytes(role) for name, role in geometry.beside.items() if name.startswith(second)
    )
    table = None
    if isinstance(coding, Lookup):
        entries = whole(arrays["table"]) if coding.table == "tensor" else tables.values(coding.table)
        table = np.ascontiguousarray(entries, dtype=np.float32)
    return _native.Panels(
        codes=body,
        rows=len(rows),
        inputs=shape[1],
        group=geometry.group,
        bits=coding.bits,
        header_bytes=geometry.header,
        zeros_at=zeros_at,
        scales=scales,
        zeros=zeros,
        zero_bits=shifts.bits if isinstance(shifts, Affine) else 0,
        offsets=second == "offsets",
        bias=float(2 ** (coding.bits - 1)) if isinstance(coding, Affine) and coding.signed else 0.0,
        scale_values=scale_values,
        zero_values=zero_values,
        table=table,
    )


def _numbers(
    name: str,
    child: Coding | None,
    geometry: panel.Panels,
    coding: Coding,
    shape: tuple[int, int],
    arrays: Arrays,
    rows: range,
) -> tuple[int, NDArray[np.float32] | None]:
    """How the kernels find the numbers of a group: in its header, or (panels, groups, 16) float32 beside the extent."""
    if child is None:
        return _NONE, None
    if isinstance(child, Dense) and child.dtype in _FLOATS:
        return _FLOATS[child.dtype], None
    if isinstance(child, Affine) and not child.signed and child.scales is child.zeros is child.offsets is None:
        return _PACKED, None
    numbers = codings.decode_child(coding, shape, arrays, name, rows)
    padded = np.zeros((-(-len(rows) // panel.ROWS) * panel.ROWS, numbers.shape[1]), np.float32)
    padded[: len(numbers)] = numbers
    return _EXTERNAL, np.ascontiguousarray(padded.reshape(-1, panel.ROWS, numbers.shape[1]).swapaxes(1, 2))
