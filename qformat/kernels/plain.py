"""Affine, lookup and additive codes in the plain layout, in the form that native kernels take; and bytes as codes.

Codes are read in place. The numbers of groups are decoded to float32, of the groups that the rows meet and no others.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qformat import codings
from qformat.codings import groups, tables
from qformat.codings.bits import stream_bytes
from qformat.codings.grammar import Additive, Affine, Block, Comb, Dense, Flat, Grouping, Lookup, Map
from qformat.codings.parts import Arrays, Read, Window, cut, whole
from qformat.dtypes import TABLE as DTYPES
from qformat.dtypes import numpy_dtype
from qformat.kernels import _native
from qformat.kernels.normal import are_normal

Floats = NDArray[np.float32]

# How numbers spread over weights, as plain.h numbers it.
_BLOCKS, _FLAT, _COMB, _MAP = range(4)

# Numbers of groups that are worth decoding ahead: a share of the weights, or few.
_SHARE, _FEW = 8, 1 << 20

# Floats behind books that may be read.
_BEYOND = 15

# What changes no weight that it is added to, zeros included.
_NOTHING = -0.0


class _Spread(NamedTuple):
    """The part of a native view that says which number of a group belongs to a weight."""

    spread: int
    size: int
    high: int = 1
    first: int = 0


def view(
    coding: Affine | Lookup | Additive | Dense, shape: tuple[int, int], arrays: Arrays, read: Read, rows: range
) -> _native.Strips | None:
    """The native view of `rows`, not empty, over arrays that have been checked.

    None for dense values of more than a byte, for rows that start within a block of additive codes, and for groups so
    small that their numbers would take more memory than the codes do.

    Raises:
        InvalidFileError: a scale, zero or offset that is used is not finite.
    """
    if isinstance(coding, Dense):
        return _bytes(coding, shape, read, rows)
    window = Window(rows.start, rows.stop, 0, shape[1])
    covered = groups.window(coding.group, shape, window)
    if np.prod(covered.shape, dtype=object) > max(len(rows) * shape[1] // _SHARE, _FEW):
        return None
    numbers = {
        name: codings.decode_shared(coding, shape, arrays, name, window)
        for name in ("scales", "zeros", "offsets", "offset")
        if getattr(coding, name, None) is not None
    }
    spread = {
        **_spread(coding.group, shape, rows, covered)._asdict(),
        "groups": whole(arrays["groups"]) if isinstance(coding.group, Map) else None,
        "scales": numbers.get("scales"),
    }
    normal = all(are_normal(array) for array in numbers.values())
    if isinstance(coding, Additive):
        return _sums(coding, shape, arrays, read, rows, spread, normal)
    table = _table(coding, arrays, rows) if isinstance(coding, Lookup) else None
    codes, skip = _codes(coding.bits, rows.start * shape[1], rows.stop * shape[1], read)
    return _native.plain(
        rows=len(rows),
        inputs=shape[1],
        codes=codes,
        skip=skip,
        bits=coding.bits,
        bias=float(2 ** (coding.bits - 1)) if isinstance(coding, Affine) and coding.signed else 0.0,
        table=table,
        **spread,
        minus=numbers.get("zeros"),
        plus=numbers.get("offsets"),
        offset=float(numbers["offset"][0, 0]) if "offset" in numbers else _NOTHING,
        normal=normal and (table is None or are_normal(table[np.isfinite(table)])),
    )


def _sums(
    coding: Additive,
    shape: tuple[int, int],
    arrays: Arrays,
    read: Read,
    rows: range,
    spread: dict[str, Any],
    normal: bool,
) -> _native.Strips | None:
    """`view` of additive codes; `normal`: their scales are."""
    if rows.start % coding.out_group:
        return None
    across = shape[1] // coding.in_group * coding.books
    first, last = rows.start // coding.out_group, -(-rows.stop // coding.out_group)
    codes, skip = _codes(coding.bits, first * across, last * across, read)
    entries = whole(arrays["codebooks"])
    books = np.zeros(entries.size + _BEYOND, np.float32)
    books[: entries.size] = entries.reshape(-1)
    return _native.sums(
        rows=len(rows),
        inputs=shape[1],
        codes=codes,
        skip=skip,
        bits=coding.bits,
        count=coding.books,
        block_rows=coding.out_group,
        wide=coding.in_group,
        books=books,
        **spread,
        normal=normal and are_normal(books),
    )


def _codes(bits: int, start: int, stop: int, read: Read) -> tuple[NDArray[np.uint8], int]:
    """The bytes that hold codes [start, stop) of the stream, and how many of other codes come before them."""
    skip = start % 8  # eight codes are whole bytes
    return read("codes", (start - skip) * bits // 8, stream_bytes(stop, bits)), skip


def _table(coding: Lookup, arrays: Arrays, rows: range) -> Floats:
    """(2^bits,) or, where each row has its own, (rows, 2^bits)."""
    if coding.table == "row":
        table = cut(arrays["table"], Window(rows.start, rows.stop, 0, 2**coding.bits))
    else:
        table = whole(arrays["table"]) if coding.table == "tensor" else tables.values(coding.table)
    return np.ascontiguousarray(table, dtype=np.float32)


def _spread(group: Grouping, shape: tuple[int, int], rows: range, covered: Window) -> _Spread:
    """How the numbers in `covered`, a part of the array of groups, spread over `rows`."""
    start = rows.start * shape[1]
    match group:
        case Block():
            high, wide = groups.sides(group, shape)
            return _Spread(_BLOCKS, wide, high, rows.start % high)
        case Flat():
            return _Spread(_FLAT, group.size, first=start % group.size)
        case Comb():
            count = groups.array_shape(group, shape)[1]  # where no number comes twice, only those that come are there
            return _Spread(_COMB, covered.right - covered.left, first=start % count - covered.left)
        case Map():
            return _Spread(_MAP, group.count)


def _bytes(coding: Dense, shape: tuple[int, int], read: Read, rows: range) -> _native.Strips | None:
    """Values of a byte, as codes of a table that has what they stand for."""
    if DTYPES[coding.dtype].bits != 8 or DTYPES[coding.dtype].kind == "other":
        return None
    table = _values(coding.dtype)
    return _native.plain(
        rows=len(rows),
        inputs=shape[1],
        codes=read("values", rows.start * shape[1], rows.stop * shape[1]),
        skip=0,
        bits=8,
        bias=0.0,
        table=table,
        **_Spread(_BLOCKS, shape[1])._asdict(),
        groups=None,
        scales=None,
        minus=None,
        plus=None,
        offset=_NOTHING,
        normal=are_normal(table[np.isfinite(table)]),
    )


@cache
def _values(dtype: str) -> Floats:
    """What each byte stands for."""
    each: NDArray[Any] = np.arange(256, dtype=np.uint8).view(numpy_dtype(dtype))
    return each.astype(np.float32)
