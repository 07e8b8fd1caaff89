"""Additive codes in the form that the native kernels take: codes in place, books and row scales as float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat import codings
from qformat.codings.grammar import Additive, Block
from qformat.codings.parts import Arrays, Read, whole
from qformat.codings.tiles import LANES, Tiles
from qformat.kernels import _native
from qformat.kernels.normal import are_normal

# Widths of codes that have a kernel: tables of 16 and 256 entries, and books too large for tables.
_BITS = (4, 8, 16)

# Books of integers, of which tables of bytes are made: their largest magnitude, and the inputs of a segment.
_MOST, _SEGMENT = 8191, 8

_LINE = 64


def view(
    coding: Additive, shape: tuple[int, int], arrays: Arrays, body: NDArray[np.uint8], rows: range
) -> _native.Additive:
    """The native view of `rows`, whole panels that lie in `body`, of a coding that is native.

    The books are copied, as float32 and, where tables are made of them, by input as well: they are small beside the
    codes, but for 16 bits.
    """
    books = np.ascontiguousarray(whole(arrays["codebooks"]), dtype=np.float32).reshape(
        coding.books, 2**coding.bits, coding.in_group
    )
    by_input = books.swapaxes(1, 2) if coding.bits <= 8 else None
    pairs, unit = (None, 1.0) if by_input is None else _integers(by_input)
    scales = None
    if coding.scales is not None:
        assert isinstance(coding.group, Block)
        high = coding.group.rows or shape[0]
        numbers = codings.decode_child(coding, shape, arrays, "scales")[:, 0]
        scales = np.zeros(-(-len(rows) // LANES) * LANES, np.float32)
        scales[: len(rows)] = numbers[np.arange(rows.start, rows.stop) // high]
    return _native.Additive(
        codes=body,
        rows=len(rows),
        groups=shape[1] // coding.in_group,
        books=coding.books,
        bits=coding.bits,
        width=coding.in_group,
        books_by_entry=_aligned(books),
        books_by_input=None if by_input is None else _aligned(by_input),
        pairs_by_input=None if pairs is None else _aligned(pairs),
        unit=unit,
        normal=are_normal(books) and (scales is None or are_normal(scales)),
        scales=scales,
    )


def _aligned(values: NDArray[Any]) -> NDArray[Any]:
    """A copy that starts at a line of the cache: registers and entries of 32 bytes then lie in one line each."""
    room = np.empty(values.nbytes + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def _integers(books: NDArray[np.float32]) -> tuple[NDArray[np.uint32], float]:
    """Books (books, inputs, entries) as pairs of 16-bit integers (books, pairs, entries), and what 1 stands for there.

    Inputs are padded to whole segments with zeros.
    """
    unit = max(float(np.abs(books).max()) / _MOST, 2.0**-126)
    spare = -books.shape[1] % _SEGMENT
    codes = np.pad(np.rint(books / np.float32(unit)).astype(np.int16), ((0, 0), (0, spare), (0, 0)))
    pairs = np.ascontiguousarray(codes.reshape(len(books), -1, 2, books.shape[2]).swapaxes(2, 3))
    return pairs.view(np.uint32)[..., 0], unit


def is_native(coding: Additive) -> bool:
    """What the native kernels read: panels of entries that are one row high, with at most one scale a row."""
    per_row = coding.scales is None or (isinstance(coding.group, Block) and coding.group.columns is None)
    return coding.layout == "panel" and coding.out_group == 1 and coding.bits in _BITS and per_row


def decode_rows(
    coding: Additive,
    shape: tuple[int, int],
    arrays: Arrays,
    read: Read,
    rows: range,
    kind: int,
    out: NDArray[Any],
    kernel: str,
) -> bool:
    """`operand.decode_rows` for additive codes; `kind` is the native number of the dtype of `out`."""
    geometry = codings.geometry(coding, shape)
    if not isinstance(geometry, Tiles) or not is_native(coding):
        return False
    first, last = rows.start // LANES, -(-rows.stop // LANES)
    top, bottom = first * LANES, min(last * LANES, shape[0])
    body = read("panels", first * geometry.panel_bytes, last * geometry.panel_bytes)
    native = view(coding, shape, arrays, body, range(top, bottom))
    _native.decode_additive(kernel, native, rows.start - top, rows.stop - top, kind, out.reshape(-1).view(np.uint8))
    return True
