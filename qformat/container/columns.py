"""The tables of an index, checked as columns.

Nothing here can wrap: every number is bounded before it is added, sums are of bounded uint64, products go through
float64 with a cap far below its precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from qformat import dtypes
from qformat.container import _native
from qformat.container.records import (
    ALIGNMENT,
    CHUNK,
    KINDS,
    LARGE,
    NONE,
    PAGE,
    PREAMBLE,
    RANK,
    RECORD,
    SPLIT4,
    Limits,
    align,
)
from qformat.container.sources import memory
from qformat.errors import InvalidFileError, LimitError

TENSOR, ALIAS, ATTACHMENT = range(len(KINDS))

_BLOCK = 512  # records that a cache holds


class Names(Sequence[bytes]):
    """Names in the order of their records, cut from the pool when somebody asks for one."""

    def __init__(self, pool: bytes, starts: NDArray[np.uint64]) -> None:
        self._pool = pool
        self._starts = memoryview(starts)  # its items are plain integers

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
        return self._pool[self._starts[row] : self._starts[row + 1]]

    def __iter__(self) -> Iterator[bytes]:
        starts = self._starts.tolist()
        return (self._pool[a:b] for a, b in pairwise(starts))


def check(records: NDArray[Any], chunks: NDArray[Any], pool: bytes, schemes: int, end: int, limits: Limits) -> Names:
    """The names of valid records; `end` is where the extents end.

    Raises:
        InvalidFileError, LimitError: `field` names the record, the field or the table.
    """
    columns = _columns(records)
    _records(columns, schemes, limits)
    names = _names(columns, pool, limits)
    _extents(records, columns, chunks, end)
    return names


def _fail(message: str, field: str, at: NDArray[Any] | None = None, **facts: Any) -> InvalidFileError:
    if at is not None and at.size:
        field = f"records[{int(at[0])}].{field}"
    return InvalidFileError(message, field=field, **facts)


def _all(good: NDArray[Any], message: str, field: str, values: NDArray[Any], **facts: Any) -> None:
    """InvalidFileError naming the first record where `good` is false."""
    if not good.all():
        at = np.flatnonzero(~good)
        raise _fail(message, field, at, found=values[at[0]], **facts)


def _columns(records: NDArray[Any]) -> dict[str, NDArray[np.uint64]]:
    """The integer fields that are checked, each in a row of its own: walking over records would read all their bytes.

    `shape` comes as (dimensions, records), with as many dimensions as any record uses. `parameters` are left out:
    only a scheme gives them a meaning.
    """
    width = RECORD.itemsize // 8
    words = records.view(np.uint64).reshape(-1, width) if len(records) else np.zeros((0, width), np.uint64)
    at = {name: RECORD.fields[name][1] // 8 for name in RECORD.names or ()}  # type: ignore[index]
    rank = min(int(words[:, at["rank"]].max(initial=1)), RANK)
    if words[:, at["shape"] + rank : at["parameters"]].any():
        rank = RANK  # a dimension beyond the rank: found where all are checked
    spans = [(0, at["shape"] + rank), (at["order"], at["digest"])]
    count = sum(stop - start for start, stop in spans)
    rows = memory(count * len(records) * 8).view(np.uint64).reshape(count, len(records))
    for low in range(0, len(records), _BLOCK):
        block, place = words[low : low + _BLOCK], 0
        for start, stop in spans:
            rows[place : place + stop - start, low : low + _BLOCK] = block[:, start:stop].T
            place += stop - start
    later = spans[0][1]
    columns = {name: rows[first] for name, first in at.items() if first < at["shape"]}
    columns |= {name: rows[later + at[name] - at["order"]] for name in at if at["order"] <= at[name] < at["digest"]}
    return columns | {"shape": rows[at["shape"] : later]}


def _records(r: dict[str, NDArray[np.uint64]], schemes: int, limits: Limits) -> None:
    """Every field on its own, then shapes."""
    kind, rank, shape = r["kind"], r["rank"], r["shape"]
    count = len(kind)
    _all(kind < len(KINDS), "unknown kind", "kind", kind)
    _all(r["reserved"] == 0, "reserved bytes are not zero", "reserved", r["reserved"])
    known = np.zeros(max(dtypes.NAME_OF_ID) + 2, bool)
    known[list(dtypes.NAME_OF_ID)] = True
    _all(known[np.minimum(r["dtype"], np.uint64(known.size - 1))], "unknown dtype", "dtype", r["dtype"])
    attached = kind == ATTACHMENT
    scheme_ok = np.where(attached, r["scheme"] == NONE, r["scheme"] < schemes)
    _all(scheme_ok, "no such scheme", "scheme", r["scheme"])
    _all(np.where(kind == ALIAS, r["target"] < count, r["target"] == NONE), "no such target", "target", r["target"])
    if (rank > RANK).any():
        at = np.flatnonzero(rank > RANK)
        raise LimitError(
            "too many dimensions", field=f"records[{int(at[0])}].rank", expected=f"at most {RANK}", found=rank[at[0]]
        )
    for axis, size in enumerate(shape):
        _all((size == 0) | (rank > axis), "a dimension beyond the rank", "shape", shape.T)
    # Dimensions of zero count as one, so that they cannot hide an absurd product.
    elements = np.ones(count)
    for size in shape:
        if (size > limits.dimension).any():
            at = np.flatnonzero(size > limits.dimension)
            raise LimitError(
                "a dimension is too large", field=f"records[{int(at[0])}].shape", found=shape[:, at[0]].tolist()
            )
        elements *= np.maximum(size, np.uint64(1))
    if (elements > limits.elements).any():
        at = np.flatnonzero(elements > limits.elements)
        raise LimitError("too many elements", field=f"records[{int(at[0])}].shape", found=shape[:, at[0]].tolist())
    if (r["length"] > limits.extent).any():
        at = np.flatnonzero(r["length"] > limits.extent)
        raise LimitError("an extent is too long", field=f"records[{int(at[0])}].length", found=r["length"][at[0]])
    _all(~attached | ((rank == 1) & (shape[0] == r["length"])), "an attachment is its bytes", "shape", shape.T)
    order = r["order"]
    _all(order < count, "not a permutation", "order", order)
    seen = np.zeros(count, bool)
    seen[order.astype(np.int64)] = True
    if not seen.all():
        raise _fail("not a permutation", "order", expected=f"a record with {int(np.flatnonzero(~seen)[0])}")


def _names(r: dict[str, NDArray[np.uint64]], pool: bytes, limits: Limits) -> Names:
    """Names fill the pool in record order, are plain ASCII, sorted within tensors and attachments, and unique."""
    length, attached = r["name_length"], r["kind"] == ATTACHMENT
    _all((length >= 1) & (length <= limits.name), "a name has 1 to 512 bytes", "name_length", length)
    starts = np.zeros(len(length) + 1, np.uint64)
    np.cumsum(length, out=starts[1:])
    if int(starts[-1]) != len(pool):
        raise _fail("names do not fill the pool", "names", expected=len(pool), found=int(starts[-1]))
    _all(r["name_offset"] == starts[:-1], "names do not follow each other", "name_offset", r["name_offset"])
    names = Names(pool, starts)
    first = len(attached) - int(attached.sum())
    _all(attached == (np.arange(len(attached)) >= first), "attachments come after tensors", "kind", r["kind"])
    unprintable, unsorted = _native.check_names(pool, starts, first)
    if unprintable >= 0:
        raise _fail("a name is not printable ASCII", "name", np.array([unprintable]), found=names[unprintable])
    if unsorted >= 0:
        what = "a name twice" if names[unsorted - 1] == names[unsorted] else "names are not sorted"
        raise _fail(what, "name", np.array([unsorted]), found=names[unsorted])
    rows = np.flatnonzero(length <= 2)
    if b"/" in pool or b" " in pool:
        raw = np.frombuffer(pool, np.uint8)
        inside = np.searchsorted(starts, np.flatnonzero((raw == 0x20) | (raw == 0x2F)), side="right") - 1
        rows = np.union1d(rows, inside)
    for row in rows.tolist():
        name = names[row]
        if name != name.strip() or any(piece in (b"", b".", b"..") for piece in name.split(b"/")):
            raise _fail("a name is not a plain path", "name", np.array([row]), found=name)
    return names


def _extents(records: NDArray[Any], r: dict[str, NDArray[np.uint64]], chunks: NDArray[Any], end: int) -> None:
    """Extents and their chunks follow each other without gap or overlap, and end where the index begins."""
    _aliases(records, r)
    by_order = np.empty(len(r["order"]), np.int64)
    by_order[r["order"].astype(np.int64)] = np.arange(len(by_order))
    own = by_order[r["kind"][by_order] != ALIAS]
    e = {field: r[field][own] for field in ("offset", "length", "stored", "first_chunk", "chunks")}
    count = -(-e["length"].astype(np.int64) // CHUNK)
    if not np.array_equal(e["chunks"].astype(np.int64), count):
        at = own[np.flatnonzero(e["chunks"].astype(np.int64) != count)]
        raise _fail("chunks do not cover the extent", "chunks", at, found=r["chunks"][at[0]])
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])
    if int(first[-1]) != len(chunks):
        raise _fail("chunks left over or missing", "chunks", expected=int(first[-1]), found=len(chunks))
    if not np.array_equal(e["first_chunk"].astype(np.int64), first[:-1]):
        raise _fail(
            "chunks do not follow each other",
            "first_chunk",
            own[np.flatnonzero(e["first_chunk"].astype(np.int64) != first[:-1])],
        )
    _chunk_rows(e, own, chunks, count, first)
    _offsets(e, own, end)


def _aliases(records: NDArray[Any], r: dict[str, NDArray[np.uint64]]) -> None:
    alias = np.flatnonzero(r["kind"] == ALIAS)
    target = r["target"][alias].astype(np.int64)
    copies, targets = records[alias], records[target]
    for field in (
        "scheme",
        "dtype",
        "rank",
        "shape",
        "parameters",
        "offset",
        "length",
        "stored",
        "first_chunk",
        "chunks",
        "digest",
    ):
        differ = copies[field] != targets[field]
        differ = differ.any(axis=1) if differ.ndim > 1 else differ
        if differ.any():
            raise _fail("an alias differs from its target", field, alias[np.flatnonzero(differ)])
    if (targets["kind"] != TENSOR).any():
        raise _fail("an alias of what is not a tensor", "target", alias[np.flatnonzero(targets["kind"] != TENSOR)])


def _chunk_rows(
    e: dict[str, NDArray[Any]], own: NDArray[Any], chunks: NDArray[Any], count: NDArray[Any], first: NDArray[Any]
) -> None:
    owner = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(chunks)) - first[:-1][owner]
    raw = np.minimum(e["length"].astype(np.int64)[owner] - place * CHUNK, CHUNK)
    stored = chunks["stored"].astype(np.int64)
    good = np.where(chunks["codec"] == 0, stored == raw, (stored > 0) & (stored < raw)) & (chunks["codec"] <= SPLIT4)
    if not good.all():
        at = int(np.flatnonzero(~good)[0])
        raise _fail(
            "a chunk has a wrong codec or length", f"chunks[{at}]", own[owner[at : at + 1]], found=int(stored[at])
        )
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(stored)])
    sums = total[first[1:]] - total[first[:-1]]
    if not np.array_equal(e["stored"].astype(np.int64), sums):
        wrong = np.flatnonzero(e["stored"].astype(np.int64) != sums)
        raise _fail(
            "chunks do not add up to the extent",
            "stored",
            own[wrong],
            expected=int(sums[wrong[0]]),
            found=int(e["stored"][wrong[0]]),
        )


def _offsets(e: dict[str, NDArray[Any]], own: NDArray[Any], end: int) -> None:
    offset, stored = e["offset"], e["stored"]
    if len(own) == 0:
        if end != PREAMBLE.itemsize:
            raise _fail("bytes that nothing accounts for", "extents", offset=PREAMBLE.itemsize)
        return
    size = np.uint64(end)
    _all((offset <= size) & (stored <= size - np.minimum(offset, size)), "outside of the file", "offset", offset)
    before = np.concatenate([np.array([PREAMBLE.itemsize], np.uint64), offset[:-1] + stored[:-1]])
    to = np.where(e["length"] >= LARGE, PAGE, ALIGNMENT).astype(np.uint64)
    expected = (before + to - np.uint64(1)) // to * to
    if not np.array_equal(offset, expected):
        at = np.flatnonzero(offset != expected)
        raise _fail(
            "extents do not follow each other",
            "offset",
            own[at],
            expected=int(expected[at[0]]),
            found=int(offset[at[0]]),
        )
    last = int(offset[-1]) + int(stored[-1])
    if align(last) != end:
        raise _fail("the index does not follow the last extent", "extents", expected=align(last), found=end)
