"""Rows and columns of a tensor, as rows and columns of the matrix that is coded.

`rows` select of the first dimension of the source's shape, `columns` of the last. The matrix has the last dimension as
its columns and all others as its rows, after the last two are swapped if the source is (in, out).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qformat.codings.parts import Window
from qformat.linear import matrix_shape

Index = slice | Sequence[int] | NDArray[Any] | None


class Tile(NamedTuple):
    """Decode `window`, take `rows` of it, put them into rows `into` of the result."""

    window: Window
    rows: slice | NDArray[Any]
    into: slice


def pick(length: int, index: Index, what: str) -> range | NDArray[np.int64]:
    """The places that an index selects of `length`, none of them negative."""
    if index is None:
        return range(length)
    if isinstance(index, slice):
        return range(length)[index]
    places = np.asarray(index)
    if places.ndim != 1 or (places.size and places.dtype.kind not in "iu"):
        raise TypeError(f"{what} must be a slice or a 1-D array of integers")
    if places.size == 0:
        return range(0)
    low, high = int(places.min()), int(places.max())  # before any cast, so that a huge uint64 cannot wrap
    if low < -length or high >= length:
        raise IndexError(f"{what} {low if low < -length else high} out of range for a side of {length}")
    places = places.astype(np.int64)
    return np.where(places < 0, places + length, places)


class Selection:
    """What is decoded of a tensor of `shape`, and how the result gets its shape back.

    `member`: of a stack of matrices only this one, as if it were a tensor of its own.
    """

    def __init__(
        self, shape: tuple[int, ...], transposed: bool, rows: Index, columns: Index, member: int | None = None
    ) -> None:
        self.transposed = transposed
        picks: list[range | NDArray[np.int64]] = [range(length) for length in shape]
        first = 0
        if member is not None:
            picks[0], first = range(member, member + 1), 1
        if rows is not None and columns is not None and len(shape) < 2:
            raise ValueError("rows and columns select the same dimension of this tensor")
        for index, axis, what in ((rows, first, "rows"), (columns, -1, "columns")):
            if index is not None:
                if not shape:
                    raise ValueError(f"a scalar has no {what}")
                picks[axis] = pick(shape[axis], index, what)
        order = list(range(len(shape)))
        if transposed:
            order[-2:] = order[:-3:-1]
        self._shape = tuple(len(picks[axis]) for axis in order[first:])
        self._lead = [(shape[axis], picks[axis]) for axis in order[:-1]]
        self._columns = picks[order[-1]] if shape else range(1)
        width = shape[order[-1]] if shape else 1
        self.some_columns = not _is_all(self._columns, width)
        self.some_rows = any(not _is_all(picked, length) for length, picked in self._lead)
        self.matrix_shape = (prod(self._shape[:-1]), len(self._columns))
        self._rows_of_matrix = matrix_shape(shape, transposed)[0]
        # decode from the first to the last column that is wanted, then take those
        self.left, self.right = _span(self._columns)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        shape = self._shape
        return (*shape[:-2], shape[-1], shape[-2]) if self.transposed else shape

    @property
    def inside(self) -> slice | NDArray[Any]:
        """The wanted columns of a decoded window."""
        if (
            len(self._columns) == self.right - self.left
            and isinstance(self._columns, range)
            and self._columns.step == 1
        ):
            return slice(None)
        return np.asarray(self._columns, np.int64) - self.left

    def _rows(self) -> NDArray[np.int64]:
        """The wanted rows of the matrix, in the order of the result."""
        rows = np.zeros(1, np.int64)
        for length, picked in self._lead:
            rows = (rows[:, None] * length + np.asarray(picked, np.int64)).reshape(-1)
        return rows

    def tiles(self, most: int) -> Iterator[Tile]:
        """Windows of at most `most` rows that hold every wanted row, without reading far beyond them."""
        if not self.some_rows:
            for top in range(0, self._rows_of_matrix, most):
                bottom = min(top + most, self._rows_of_matrix)
                yield Tile(Window(top, bottom, self.left, self.right), slice(None), slice(top, bottom))
            return
        rows = self._rows()
        start = 0
        while start < len(rows):
            batch = rows[start : start + most]
            dense = np.flatnonzero(np.maximum.accumulate(batch) - np.minimum.accumulate(batch) >= _reach(batch, most))
            stop = start + (int(dense[0]) if dense.size else len(batch))
            batch = rows[start:stop]
            low, high = int(batch.min()), int(batch.max()) + 1
            yield Tile(Window(low, high, self.left, self.right), batch - low, slice(start, stop))
            start = stop

    def restore(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """The decoded matrix in the shape of the source (or of what is selected of it)."""
        array = matrix.reshape(self._shape)
        return np.ascontiguousarray(np.swapaxes(array, -1, -2)) if self.transposed else array


def _reach(batch: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """How far apart the first n wanted rows may be: four times their number, and never more than a tile."""
    return np.minimum(4 * np.arange(1, len(batch) + 1), most)


def _span(picked: range | NDArray[np.int64]) -> tuple[int, int]:
    """The smallest [start, stop) that holds what is picked."""
    if len(picked) == 0:
        return 0, 0
    if isinstance(picked, range):
        ends = sorted((picked[0], picked[-1]))
        return ends[0], ends[1] + 1
    return int(picked.min()), int(picked.max()) + 1


def _is_all(picked: range | NDArray[np.int64], length: int) -> bool:
    return isinstance(picked, range) and picked == range(length)
