"""Extents and their chunks: each follows the one before without gap or overlap, up to where the index begins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat.container import _native
from qformat.container.columns import TENSOR, Records, fault
from qformat.container.records import ALIGNMENT, CHUNK, LARGE, PAGE, PREAMBLE, SPLIT4, align
from qformat.container.table import Table

_STEP = 4096  # extents that a cache holds

# What an alias has of its target.
_SHARED = ("scheme", "dtype", "rank", "shape", "parameters", "offset", "length", "stored", "first_chunk", "chunks",
           "digest")  # fmt: skip


def check(records: Records, chunks: NDArray[Any], end: int) -> None:
    """The extents of valid records; `end` is where the last one ends.

    Raises:
        InvalidFileError: `field` names the record and the field, or the table.
    """
    words = chunks.view(np.uint64).reshape(-1, 2)
    sizes = (PREAMBLE.itemsize, end, CHUNK, SPLIT4, LARGE, PAGE, ALIGNMENT)
    if not _native.check_extents(records.own, records.extents, words, *sizes):
        _find(records, chunks, end)
        raise fault("extents and chunks do not fit together", "extents")


def _find(records: Records, chunks: NDArray[Any], end: int) -> None:
    """The error about the first extent or chunk that is not as it must be."""
    chunk, at = 0, PREAMBLE.itemsize
    for low in range(0, len(records.rows), _STEP):
        own = records.own[low : low + _STEP]
        rows = records.rows[low : low + _STEP][own]
        offset, length, stored, first = records.extents[:, low : low + _STEP][:, own]
        if rows.size:
            chunk = _chunks(rows, length, stored, first, chunks, chunk)
            at = _offsets(rows, offset, length, stored, at, end)
    if chunk != len(chunks):
        raise fault("chunks left over or missing", "chunks", expected=chunk, found=len(chunks))
    if align(at) != end:
        what = "the index does not follow the last extent" if records.own.any() else "bytes that nothing accounts for"
        raise fault(what, "extents", expected=align(at), found=end)


def _first(wrong: NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(wrong)[0])


def _chunks(
    rows: NDArray[Any], length: NDArray[Any], stored: NDArray[Any], first: NDArray[Any], chunks: NDArray[Any], low: int
) -> int:
    """The chunks of some extents, which begin with number `low`; the number after the last."""
    count = -(-length.astype(np.int64) // CHUNK)
    starts = np.concatenate([[low], low + np.cumsum(count)])
    if (wrong := first != starts[:-1].astype(np.uint64)).any():
        at = _first(wrong)
        raise fault("chunks do not follow each other", "first_chunk", rows[at], expected=starts[at], found=first[at])
    high = int(starts[-1])
    if high > len(chunks):
        raise fault("chunks left over or missing", "chunks", expected=f"at least {high}", found=len(chunks))
    table = chunks[low:high]
    owner = np.repeat(np.arange(len(count)), count)
    raw = np.minimum(length.astype(np.int64)[owner] - (np.arange(low, high) - starts[owner]) * CHUNK, CHUNK)
    sizes, codec = table["stored"].astype(np.int64), table["codec"]
    wrong = np.where(codec == 0, sizes != raw, (sizes <= 0) | (sizes >= raw)) | (codec > SPLIT4)
    if wrong.any():
        at = _first(wrong)
        raise fault("a chunk has a wrong codec or length", f"chunks[{low + at}]", rows[owner[at]], found=int(sizes[at]))
    total = np.concatenate([[0], np.cumsum(sizes)])
    sums = total[starts[1:] - low] - total[starts[:-1] - low]
    if (wrong := stored != sums.astype(np.uint64)).any():
        at = _first(wrong)
        raise fault("chunks do not add up to the extent", "stored", rows[at], expected=sums[at], found=stored[at])
    return high


def _offsets(
    rows: NDArray[Any], offset: NDArray[Any], length: NDArray[Any], stored: NDArray[Any], at: int, end: int
) -> int:
    """Where some extents lie, the first of them after byte `at`; where the last ends."""
    size = np.uint64(end)
    if (wrong := (offset > size) | (stored > size - np.minimum(offset, size))).any():
        raise fault("outside of the file", "offset", rows[_first(wrong)], found=offset[_first(wrong)])
    before = np.concatenate([np.array([at], np.uint64), offset[:-1] + stored[:-1]])
    to = np.where(length >= LARGE, PAGE, ALIGNMENT).astype(np.uint64)
    expected = (before + to - np.uint64(1)) // to * to
    if (wrong := offset != expected).any():
        place = _first(wrong)
        raise fault(
            "extents do not follow each other", "offset", rows[place], expected=expected[place], found=offset[place]
        )
    return int(offset[-1]) + int(stored[-1])


def check_aliases(aliases: list[int], table: Table) -> None:
    """An alias is what it stands for, under another name."""
    if not aliases:
        return
    copies = table.rows(np.array(aliases))
    targets = table.rows(copies["target"].astype(np.int64))
    for field in _SHARED:
        differ = copies[field] != targets[field]
        differ = differ.any(axis=1) if differ.ndim > 1 else differ
        if differ.any():
            raise fault("an alias differs from its target", field, aliases[_first(differ)])
    if (wrong := targets["kind"] != TENSOR).any():
        raise fault("an alias of what is not a tensor", "target", aliases[_first(wrong)])
