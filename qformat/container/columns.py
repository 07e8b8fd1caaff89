"""The records of an index, checked block by block as columns, and their names.

Nothing here can wrap: every number is bounded before it is added, sums are of bounded uint64, products go through
float64 with a cap far below its precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from qformat import dtypes
from qformat.container import _native
from qformat.container.records import CHUNK, KINDS, NONE, RANK, RECORD, Limits
from qformat.container.sources import LARGE, memory
from qformat.errors import InvalidFileError, LimitError

TENSOR, ALIAS, ATTACHMENT = range(len(KINDS))

_KNOWN = np.zeros(max(dtypes.NAME_OF_ID) + 2, bool)
_KNOWN[list(dtypes.NAME_OF_ID)] = True
_WORDS = RECORD.itemsize // 8
_AT = {name: RECORD.fields[name][1] // 8 for name in RECORD.names or ()}  # type: ignore[index]

Columns = dict[str, NDArray[np.uint64]]


class Names(Sequence[bytes]):
    """Names in the order of their records, cut from the pool when somebody asks for one."""

    def __init__(self, pool: NDArray[np.uint8], starts: NDArray[np.uint64]) -> None:
        self._pool, self._starts = memoryview(pool), memoryview(starts)  # whose items are plain integers

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, row: int) -> bytes: ...
    @overload
    def __getitem__(self, row: slice) -> list[bytes]: ...
    def __getitem__(self, row: int | slice) -> bytes | list[bytes]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(row)
        return bytes(self._pool[self._starts[row] : self._starts[row + 1]])

    def text(self, rows: NDArray[Any]) -> list[str]:
        """The names of some rows, many at a time."""
        pool = str(self._pool, "ascii")
        starts = np.asarray(self._starts)
        ends = starts[rows + 1].tolist()
        return [pool[a:b] for a, b in zip(starts[rows].tolist(), ends, strict=True)]

    def __iter__(self) -> Iterator[bytes]:
        pool, starts = bytes(self._pool), self._starts.tolist()
        return (pool[a:b] for a, b in pairwise(starts))


def fault(message: str, field: str, row: int | None = None, **facts: Any) -> InvalidFileError:
    """The error about record number `row`, or about none in particular."""
    return InvalidFileError(message, field=field if row is None else f"records[{row}].{field}", **facts)


class Records:
    """What is gathered from the records while they pass; it is much less than they are.

    Attributes:
        rows: the record at each place of the execution order.
        own: whether the record at a place has an extent of its own.
        extents: offset, length, stored and first_chunk of the record at each place: (4, count).
        aliases: numbers of the records that are one.
        attached: how many records, the last, are attachments.
    """

    def __init__(self, count: int, limits: Limits) -> None:
        self._limits = limits
        self._starts = np.zeros(count + 1, np.uint64)  # of the names in their pool, and where the last one ends
        self._scheme = (-1, 0)  # the greatest number of a scheme, and a record that has it
        self.rows = np.full(count, -1, np.int32)
        self.own = np.zeros(count, bool)
        self.extents = memory(4 * 8 * count, LARGE).view(np.uint64).reshape(4, count)
        self.aliases: list[int] = []
        self.attached = 0

    def check(self, first: int, block: NDArray[Any]) -> None:
        """The records from number `first` on, as far as each says it alone.

        Raises:
            InvalidFileError, LimitError: `field` names the record and the field.
        """
        limits, words = self._limits, block.view(np.uint64).reshape(-1, _WORDS)
        most = (limits.name, limits.dimension, limits.extent, limits.json, CHUNK, limits.elements)
        good, attached = _native.check_records(
            words, first, _KNOWN, most, self._starts, self.rows, self.own, self.extents, self.attached
        )
        if good < len(block):
            _check_fields(first, _columns(block), len(self.rows), limits)
            _check_names(first, _columns(block), int(self._starts[first]), self.attached > 0)
            raise fault("not a permutation", "order", first + good, found=int(block["order"][good]))
        self.attached = attached
        self.aliases += (first + np.flatnonzero(block["kind"] == ALIAS)).tolist()
        schemes = block["scheme"] + np.uint64(1)  # none becomes zero
        greatest = int(schemes.argmax())
        self._scheme = max(self._scheme, (int(schemes[greatest]) - 1, first + greatest), key=itemgetter(0))

    def finish(self, pool: NDArray[np.uint8], schemes: int) -> Names:
        """What all records say together; the names in their pool.

        Raises:
            InvalidFileError: `field` names the record and the field, or the table.
        """
        if self._scheme[0] >= schemes:
            raise fault("no such scheme", "scheme", self._scheme[1], found=self._scheme[0])
        if (self.rows < 0).any():
            missing = int(np.flatnonzero(self.rows < 0)[0])
            raise fault("not a permutation", "order", expected=f"a record with {missing}")
        return _names(pool, self._starts, len(self.rows) - self.attached)


def _columns(records: NDArray[Any]) -> Columns:
    """The integer fields that are checked, each in a row of its own: walking over records would read all their bytes.

    `shape` comes as (dimensions, records), with as many dimensions as any record uses. `parameters` are left out:
    only a scheme gives them a meaning.
    """
    words = records.view(np.uint64).reshape(-1, _WORDS)
    rank = min(int(words[:, _AT["rank"]].max(initial=1)), RANK)
    if words[:, _AT["shape"] + rank : _AT["parameters"]].any():
        rank = RANK  # a dimension beyond the rank: found where all are checked
    before = np.ascontiguousarray(words[:, : _AT["shape"] + rank].T)
    after = np.ascontiguousarray(words[:, _AT["order"] : _AT["digest"]].T)
    columns = {name: before[at] for name, at in _AT.items() if at < _AT["shape"]}
    columns |= {name: after[at - _AT["order"]] for name, at in _AT.items() if _AT["order"] <= at < _AT["digest"]}
    return columns | {"shape": before[_AT["shape"] :]}


def _all(good: NDArray[Any], message: str, field: str, values: NDArray[Any], first: int) -> None:
    """InvalidFileError naming the first record where `good` is false."""
    if not good.all():
        at = int(np.flatnonzero(~good)[0])
        raise fault(message, field, first + at, found=values[at])


def _most(values: NDArray[Any], most: float, message: str, field: str, said: NDArray[Any], first: int) -> None:
    """LimitError naming the first record whose value is above `most`."""
    if (values > most).any():
        at = int(np.flatnonzero(values > most)[0])
        raise LimitError(
            message, field=f"records[{first + at}].{field}", expected=f"at most {int(most)}", found=said[at].tolist()
        )


def _check_fields(first: int, r: Columns, count: int, limits: Limits) -> None:
    """Every field on its own, then shapes."""
    kind, rank, shape = r["kind"], r["rank"], r["shape"]
    _all(kind < len(KINDS), "unknown kind", "kind", kind, first)
    _all(r["reserved"] == 0, "reserved bytes are not zero", "reserved", r["reserved"], first)
    _all(_KNOWN[np.minimum(r["dtype"], np.uint64(_KNOWN.size - 1))], "unknown dtype", "dtype", r["dtype"], first)
    attached = kind == ATTACHMENT
    scheme_ok = np.where(attached, r["scheme"] == NONE, r["scheme"] <= limits.json)  # each takes a byte at least
    _all(scheme_ok, "no such scheme", "scheme", r["scheme"], first)
    target_ok = np.where(kind == ALIAS, r["target"] < count, r["target"] == NONE)
    _all(target_ok, "no such target", "target", r["target"], first)
    _most(rank, RANK, "too many dimensions", "rank", rank, first)
    # Dimensions of zero count as one, so that they cannot hide an absurd product.
    elements = np.ones(len(kind))
    for axis, size in enumerate(shape):
        _all((size == 0) | (rank > axis), "a dimension beyond the rank", "shape", shape.T, first)
        _most(size, limits.dimension, "a dimension is too large", "shape", shape.T, first)
        elements *= np.maximum(size, np.uint64(1))
    _most(elements, limits.elements, "too many elements", "shape", shape.T, first)
    _most(r["length"], limits.extent, "an extent is too long", "length", r["length"], first)
    _all(~attached | ((rank == 1) & (shape[0] == r["length"])), "an attachment is its bytes", "shape", shape.T, first)
    _all(r["order"] < count, "not a permutation", "order", r["order"], first)
    chunks = (r["length"] + np.uint64(CHUNK - 1)) // np.uint64(CHUNK)
    _all(r["chunks"] == chunks, "chunks do not cover the extent", "chunks", r["chunks"], first)
    length = r["name_length"]
    _all((length >= 1) & (length <= limits.name), "a name has 1 to 512 bytes", "name_length", length, first)


def _check_names(first: int, r: Columns, start: int, attached: bool) -> None:
    """Names follow each other in the pool from `start` on, those of attachments last."""
    ends = start + np.cumsum(r["name_length"])
    starts = np.concatenate([[np.uint64(start)], ends[:-1]])
    _all(r["name_offset"] == starts, "names do not follow each other", "name_offset", r["name_offset"], first)
    good = np.maximum.accumulate(r["kind"] == ATTACHMENT) <= (r["kind"] == ATTACHMENT)
    _all(good & ~(attached & (r["kind"] != ATTACHMENT)), "attachments come after tensors", "kind", r["kind"], first)


def _names(pool: NDArray[np.uint8], starts: NDArray[np.uint64], tensors: int) -> Names:
    """Names fill the pool, are plain ASCII, sorted within tensors and attachments, and unique."""
    if int(starts[-1]) != len(pool):
        raise fault("names do not fill the pool", "names", expected=len(pool), found=int(starts[-1]))
    names = Names(pool, starts)
    unprintable, unsorted, unplain = _native.check_names(pool, starts, tensors)
    if unprintable >= 0:
        raise fault("a name is not printable ASCII", "name", unprintable, found=names[unprintable])
    if unsorted >= 0:
        what = "a name twice" if names[unsorted - 1] == names[unsorted] else "names are not sorted"
        raise fault(what, "name", unsorted, found=names[unsorted])
    if unplain >= 0:
        raise fault("a name is not a plain path", "name", unplain, found=names[unplain])
    return names
