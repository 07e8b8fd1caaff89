"""The record and chunk tables of an index, validated column by column.

Nothing here can wrap: every bound is checked before a number is used in arithmetic, sums stay below 2^63 by those
bounds, and `offset ≤ size` is checked before `stored ≤ size − offset`. Positions that follow from other columns
(a name's place, a record's first chunk, a chunk's offset) are derived instead of stored: fewer numbers to distrust.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from qformat.container.constants import (
    ALIGNMENT,
    CHUNK,
    LARGE,
    LARGE_ALIGNMENT,
    MAX_RATIO,
    NAN_BITS,
    NONE,
    OPTIONAL_KIND,
    RECORD,
    Encoding,
    Kind,
    Limits,
)
from qformat.dtypes import NAME_OF_ID
from qformat.errors import InvalidFileError, LimitError, UnsupportedError

Array = np.ndarray[Any, Any]

PRINTABLE = bytes(c for c in range(0x20, 0x7F) if c != ord("\\"))
_BAD_IN_FILE_NAMES = frozenset('<>:"|?*')
_BLOCK = 1 << 16


class Table:
    """Where the records lie, so that an error can say which tensor, field and offset it is about."""

    def __init__(self, records: Array, base: int, file: object) -> None:
        self.records, self.base, self.file = records, base, file
        self.names: bytes = b""
        self.starts: Array = np.zeros(0, np.int64)

    def name(self, i: int) -> str | None:
        """The name of record `i`, or None while names are not known to be sound."""
        if not self.starts.size:
            return None
        start = int(self.starts[i])
        return self.names[start : start + int(self.records["name_length"][i])].decode("ascii")

    def fail(
        self, bad: Array, field: str, message: str, *, expected: Any = None, found: Any = None, kind: Any = InvalidFileError
    ) -> None:
        """Raise `kind` about the first record for which `bad` is true; `expected` and `found` may be columns."""
        if not bad.any():
            return
        i = int(np.argmax(bad))
        pick = lambda column: column[i].tolist() if isinstance(column, np.ndarray) else column  # noqa: E731
        raise kind(
            f"{message} (record {i})",
            file=self.file,
            tensor=self.name(i),
            field=field,
            offset=self.base + i * RECORD.itemsize + RECORD.fields[field][1],  # type: ignore[index]
            expected=pick(expected),
            found=pick(self.records[field] if found is None else found),
        )


def check_names(table: Table, names: bytes, base: int, limits: Limits) -> None:
    """Names are NUL-terminated printable ASCII, tile the pool, and ascend strictly: tensors first, then attachments."""
    records, count = table.records, len(table.records)
    lengths = records["name_length"].astype(np.int64)
    table.fail((lengths == 0) | (lengths > limits.name_bytes), "name_length", "bad name length", expected=f"1 to {limits.name_bytes}")
    ends = np.cumsum(lengths + 1)
    if int(ends[-1] if count else 0) != len(names):
        raise InvalidFileError("names do not fill the name table", file=table.file, field="names", offset=base, expected=len(names), found=int(ends[-1]) if count else 0)
    pool = np.frombuffer(names, np.uint8)
    if count and pool[ends - 1].any():
        i = int(np.argmax(pool[ends - 1] != 0))
        raise InvalidFileError(f"name is not terminated (record {i})", file=table.file, field="names", offset=base + int(ends[i]) - 1)
    if names.translate(None, PRINTABLE) != b"\0" * count:
        bad = next(i for i, c in enumerate(names) if c and c not in PRINTABLE)
        raise InvalidFileError("name is not printable ASCII without backslash", file=table.file, field="names", offset=base + bad, found=hex(names[bad]))
    table.names, table.starts = names, ends - lengths - 1
    _check_paths(table, names)
    attachment = (records["kind"] == Kind.ATTACHMENT).astype(np.int8)
    table.fail(np.diff(attachment, prepend=np.int8(0)) < 0, "kind", "tensors come before attachments")
    for first in range(0, count, _BLOCK):
        # One block at a time: a million names as Python objects at once would be most of the memory budget.
        last = min(first + _BLOCK + 1, count)
        block = names[table.starts[first] : ends[last - 1] - 1].split(b"\0")
        ascending = np.fromiter(map(operator.lt, block, block[1:]), bool, len(block) - 1)
        bad = np.zeros(count, bool)
        bad[first + 1 : last] = ~ascending & (attachment[first + 1 : last] == attachment[first : last - 1])
        table.fail(bad, "name_length", "names are not sorted, or one stands twice", found=False)
    for i in np.flatnonzero(attachment).tolist():
        if not _BAD_IN_FILE_NAMES.isdisjoint(table.name(i) or ""):
            raise InvalidFileError("not a portable file name", file=table.file, tensor=table.name(i), field="names", offset=base + int(table.starts[i]))


def _check_paths(table: Table, names: bytes) -> None:
    """No name starts with a slash, has an empty, `.` or `..` component, or begins or ends with a space or dot."""
    around = b"\0" + names
    if not any(mark in around for mark in (b"\0/", b"\0.", b"\0 ", b"/\0", b".\0", b" \0", b"//", b"/./", b"/../")):
        return
    for i in range(len(table.records)):
        name = table.name(i) or ""
        try:
            check_name(name)
        except ValueError as error:
            raise InvalidFileError(str(error), file=table.file, tensor=name, field="names") from error


def check_name(name: str, *, attachment: bool = False) -> bytes:
    """`name` as it is stored; ValueError when a file may not hold it."""
    if not 1 <= len(name) <= 512 or not name.isascii() or name.encode().translate(None, PRINTABLE):
        raise ValueError("a name is 1 to 512 printable ASCII characters without backslash")
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError("a name has no empty, '.' or '..' component")
    if name[-1] in " ." or name[0] in " ":
        raise ValueError("a name does not begin or end with a space, nor end with a dot")
    if attachment and not _BAD_IN_FILE_NAMES.isdisjoint(name):
        raise ValueError("an attachment's name works as a file name everywhere")
    return name.encode()


def check_records(table: Table, *, schemes: int, newer: bool, limits: Limits) -> None:
    """Every field that can be judged without the file's bytes; `newer` admits ids of a later minor version."""
    r = table.records
    kind = r["kind"]
    known = kind <= Kind.ATTACHMENT
    table.fail(~known & (kind < OPTIONAL_KIND), "kind", "unknown kind of record", kind=UnsupportedError)
    table.fail(r["reserved"] != 0, "reserved", "reserved bytes are not zero")
    table.fail(r["rank"] > limits.rank, "rank", "too many dimensions", expected=limits.rank, kind=LimitError)
    shape, rank = r["shape"], r["rank"].astype(np.int64)
    table.fail((shape > limits.dim).any(axis=1), "shape", "a dimension is too large", expected=f"at most {limits.dim}", kind=LimitError)
    beyond = np.arange(8)[None, :] >= rank[:, None]
    table.fail((beyond & (shape != 0)).any(axis=1), "shape", "dimensions beyond the rank are not zero")
    # Zero dimensions count as one, so that they cannot hide an absurd product; float64 cannot overflow at 2^320.
    elements = np.where(beyond | (shape == 0), 1, shape).astype(np.float64).prod(axis=1)
    table.fail(elements > limits.elements, "shape", "too many elements", expected=f"at most {limits.elements}", kind=LimitError)
    table.fail((r["parameters"] > limits.elements).any(axis=1), "parameters", "a parameter is too large", kind=LimitError)
    for field in ("length", "stored"):
        table.fail(r[field] > limits.extent_bytes, field, "extent is too large", expected=f"at most {limits.extent_bytes}", kind=LimitError)
    table.fail(r["stored"] > r["length"], "stored", "stored bytes exceed the extent's length", expected=r["length"])
    _check_encodings(table)
    _check_kinds(table, schemes, newer)
    count = len(r)
    seen = np.zeros(count, bool)
    table.fail(r["order"] >= count, "order", "order is out of range", expected=f"below {count}")
    seen[r["order"]] = True
    table.fail(np.full(count, not seen.all()), "order", "order is not a permutation")


def _check_encodings(table: Table) -> None:
    r = table.records
    encoding, itemsize = r["encoding"], r["itemsize"]
    split = encoding == Encoding.SPLIT
    allowed = np.where(split, (itemsize == 2) | (itemsize == 4), itemsize == 1)
    table.fail(~allowed & (encoding <= Encoding.SPLIT), "itemsize", "item size does not fit the encoding")
    raw = encoding == Encoding.RAW
    table.fail(raw & (r["stored"] != r["length"]), "stored", "a raw extent is stored at its length", expected=r["length"])


def _check_kinds(table: Table, schemes: int, newer: bool) -> None:
    r = table.records
    kind = r["kind"]
    tensor, alias, attachment = kind == Kind.TENSOR, kind == Kind.ALIAS, kind == Kind.ATTACHMENT
    if not newer:
        table.fail(tensor & ~np.isin(r["dtype"], list(NAME_OF_ID)), "dtype", "unknown dtype")
        table.fail(r["encoding"] > Encoding.SPLIT, "encoding", "unknown encoding", kind=UnsupportedError)
    table.fail(tensor & (r["scheme"] >= schemes), "scheme", "no such scheme", expected=f"below {schemes}")
    table.fail(~tensor & (r["scheme"] != NONE), "scheme", "only tensors have a scheme", expected=NONE)
    empty = ~tensor & ((r["rank"] != 0) | (r["dtype"] != 0) | (r["parameters"] != 0).any(axis=1))
    table.fail(empty, "dtype", "only tensors have a dtype, a shape and parameters")
    table.fail(~alias & (r["target"] != NONE), "target", "only aliases have a target", expected=NONE)
    target = np.where(alias, r["target"], 0).astype(np.int64)
    table.fail(alias & (target >= len(r)), "target", "alias of a record that does not exist", expected=f"below {len(r)}")
    table.fail(alias & (kind[np.where(alias, target, 0)] != Kind.TENSOR), "target", "alias of something that is not a tensor")
    table.fail(alias & ((r["offset"] != 0) | (r["length"] != 0)), "length", "an alias has no extent")
    table.fail(alias & np.frombuffer(r["digest"].tobytes(), np.uint8).reshape(-1, 32).any(axis=1), "digest", "an alias has no digest", found=False)
    for field in ("error", "max_error"):
        value = r[field]
        measured = np.ascontiguousarray(value).view(np.uint64) != NAN_BITS
        table.fail(measured & ~(np.isfinite(value) & (value >= 0)), field, "an error is a finite number ≥ 0, or the one NaN")
        table.fail(measured & ~tensor, field, "only tensors have an error")
    del attachment


def check_extents(table: Table, *, size: int, end: int) -> int:
    """Extents lie in `order`, each at the first aligned place after the one before; returns where the last ends.

    So none overlap, and every byte between them is padding. `size` is the file's, `end` where the first index may
    be at the latest.
    """
    r = table.records
    table.fail(r["offset"] > size, "offset", "extent begins beyond the end of the file", expected=f"at most {size}")
    table.fail(r["stored"] > size - r["offset"], "stored", "extent ends beyond the end of the file", expected=size - r["offset"])
    sequence = np.empty(len(r), np.int64)
    sequence[r["order"]] = np.arange(len(r))
    sequence = sequence[r["kind"][sequence] != Kind.ALIAS]
    if not sequence.size:
        return ALIGNMENT
    offset, stored, length = (r[field][sequence].astype(np.int64) for field in ("offset", "stored", "length"))
    before = np.concatenate([[ALIGNMENT], (offset + stored)[:-1]])
    alignment = np.where(length >= LARGE, LARGE_ALIGNMENT, ALIGNMENT)
    place = (before + alignment - 1) & -alignment
    expected, wrong = np.zeros(len(r), np.int64), np.zeros(len(r), bool)
    expected[sequence], wrong[sequence] = place, offset != place
    misaligned = wrong & (r["offset"] % ALIGNMENT != 0)
    table.fail(misaligned, "offset", "extent is not aligned", expected=expected)
    table.fail(wrong & (r["offset"] < expected.astype(np.uint64)), "offset", "extent overlaps what lies before it", expected=expected)
    table.fail(wrong, "offset", "gap before an extent", expected=expected)
    last = int(offset[-1] + stored[-1])
    if last > end:
        overlap = np.zeros(len(r), bool)
        overlap[sequence[-1]] = True
        table.fail(overlap, "offset", "extent overlaps the index", expected=f"end at most {end}")
    return last


def chunk_counts(lengths: Array) -> Array:
    """Number of chunks of each extent (int64)."""
    return ((lengths + np.uint64(CHUNK - 1)) // np.uint64(CHUNK)).astype(np.int64)


def check_chunks(table: Table, stored: Array, base: int) -> tuple[Array, Array]:
    """Check the chunk table; return each record's first chunk (n + 1 numbers) and each chunk's file offset."""
    r = table.records
    counts = chunk_counts(r["length"])
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    if int(first[-1]) != len(stored):
        raise InvalidFileError("chunk table does not fit the extents", file=table.file, field="chunks", offset=base, expected=int(first[-1]), found=len(stored))
    logical = np.full(len(stored), CHUNK, np.int64)
    some = counts > 0
    logical[first[1:][some] - 1] = r["length"][some].astype(np.int64) - (counts[some] - 1) * CHUNK
    sizes = stored.astype(np.int64)
    bad = (sizes > logical) | (sizes * MAX_RATIO < logical)
    if bad.any():
        i = int(np.argmax(bad))
        owner = int(np.searchsorted(first, i, side="right")) - 1
        message = "chunk is stored longer than it is" if sizes[i] > logical[i] else "chunk expands too much"
        raise LimitError(message, file=table.file, tensor=table.name(owner), field=f"chunk {i - int(first[owner])}", offset=base + 4 * i, expected=f"{-(-int(logical[i]) // MAX_RATIO)} to {int(logical[i])} bytes", found=int(sizes[i]))
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    sums = ends[first[1:]] - ends[first[:-1]]
    table.fail(sums != r["stored"].astype(np.int64), "stored", "chunks do not add up to the extent", expected=sums)
    offsets = ends[:-1] + np.repeat(r["offset"].astype(np.int64) - ends[first[:-1]], counts)
    return first, offsets
