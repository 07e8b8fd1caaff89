"""Writing an index: entries of finished extents become tables, byte for byte the same whatever order they came in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from qformat.container import document, records
from qformat.container.constants import (
    ALIGNMENT,
    HEADER,
    INDEX_MAGIC,
    LIMITS,
    MAJOR,
    MINOR,
    NAN_BITS,
    NONE,
    RECORD,
    TRAILER,
    TRAILER_MAGIC,
    Kind,
    align,
)
from qformat.container.digest import blake3_of
from qformat.container.document import Document
from qformat.container.strictjson import canonical
from qformat.dtypes import TABLE
from qformat.errors import LimitError


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that the index needs to know of one finished record; JSON-able, which is what a journal holds."""

    name: str
    kind: int
    order: int
    scheme: dict[str, Any] | None = None
    dtype: str = ""
    shape: tuple[int, ...] = ()
    parameters: tuple[int, ...] = ()
    offset: int = 0
    length: int = 0
    stored: int = 0
    encoding: int = 0
    itemsize: int = 1
    digest: bytes = bytes(32)
    error: float | None = None
    max_error: float | None = None
    target: str | None = None
    chunk_hash: tuple[int, ...] = ()
    chunk_stored: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """The file offset after the extent (after the preamble for an alias)."""
        return self.offset + self.stored


def build_index(entries: Sequence[Entry], doc: Document, extra: dict[str, Any] | None = None, superseded: tuple[int, int, bytes] | None = None) -> bytes:
    """The bytes of an index; the schemes of `entries` become the document's list, in order of first use."""
    if len(entries) > LIMITS.records:
        raise LimitError("too many records", field="records", expected=f"at most {LIMITS.records}", found=len(entries))
    ordered = sorted(entries, key=lambda entry: (entry.kind == Kind.ATTACHMENT, entry.name))
    number = {(entry.kind == Kind.ATTACHMENT, entry.name): i for i, entry in enumerate(ordered)}
    schemes: dict[bytes, int] = {}
    for entry in sorted(entries, key=lambda entry: entry.order):
        if entry.scheme is not None:
            schemes.setdefault(canonical(entry.scheme), len(schemes))
    rows = np.zeros(len(ordered), RECORD)
    for row, entry in zip(rows, ordered, strict=True):
        _fill(row, entry, schemes, number)
    names = b"".join(entry.name.encode() + b"\0" for entry in ordered)
    hashes = [h for entry in ordered for h in entry.chunk_hash]
    stored = [s for entry in ordered for s in entry.chunk_stored]
    doc = msgspec.structs.replace(doc, schemes=[msgspec.json.decode(text) for text in schemes])
    return assemble(rows, np.array(hashes, "<u8"), np.array(stored, "<u4"), names, doc, extra, superseded)


def _fill(row: Any, entry: Entry, schemes: dict[bytes, int], number: dict[tuple[bool, str], int]) -> None:
    row["name_length"] = len(entry.name)
    row["kind"], row["order"] = entry.kind, entry.order
    row["encoding"], row["itemsize"] = entry.encoding, entry.itemsize
    row["scheme"] = NONE if entry.scheme is None else schemes[canonical(entry.scheme)]
    row["target"] = NONE if entry.target is None else number[False, entry.target]
    row["offset"], row["length"], row["stored"] = entry.offset, entry.length, entry.stored
    row["digest"] = np.void(entry.digest)
    if entry.kind == Kind.TENSOR:
        row["dtype"], row["rank"] = TABLE[entry.dtype].id, len(entry.shape)
        row["shape"][: len(entry.shape)] = entry.shape
        row["parameters"][: len(entry.parameters)] = entry.parameters
    nan = np.array([NAN_BITS], np.uint64).view(np.float64)[0]
    row["error"] = nan if entry.error is None else entry.error
    row["max_error"] = nan if entry.max_error is None else entry.max_error


def assemble(
    rows: Any,
    hashes: Any,
    stored: Any,
    names: bytes,
    doc: Document,
    extra: dict[str, Any] | None = None,
    superseded: tuple[int, int, bytes] | None = None,
) -> bytes:
    """Header, tables and document as one index, zero-padded to a multiple of 64 bytes."""
    document.check_metadata(doc.metadata)
    text = document.encode(doc, extra)
    header = np.zeros(1, HEADER)
    header["magic"], header["major"], header["minor"] = np.void(INDEX_MAGIC), MAJOR, MINOR
    header["records"], header["chunks"] = len(rows), len(stored)
    header["names_length"], header["json_length"] = len(names), len(text)
    if superseded:
        header["superseded_offset"], header["superseded_length"] = superseded[:2]
        header["superseded_digest"] = np.void(superseded[2])
    tables = stored.tobytes()
    parts = [header.tobytes(), rows.tobytes(), hashes.tobytes(), tables, bytes(-len(tables) % 8), names, text]
    length = sum(map(len, parts))
    index = b"".join([*parts, bytes(align(length, ALIGNMENT) - length)])
    # What is written must be readable: the reader's own checks run on it, so that a bug shows here and not in a file.
    table = records.Table(rows, 0, None)
    records.check_names(table, names, 0, LIMITS)
    records.check_records(table, schemes=len(doc.schemes), newer=False, limits=LIMITS)
    document.decode(text, newer=False)
    return index


def build_trailer(index: bytes, offset: int) -> bytes:
    """The trailer that makes `index`, at `offset`, the current one."""
    return trailer_of(offset, len(index), blake3_of(index))


def trailer_of(offset: int, length: int, digest: bytes) -> bytes:
    """The one trailer that an index at this place, of this length and digest, can have."""
    trailer = np.zeros(1, TRAILER)
    trailer["offset"], trailer["length"] = offset, length
    trailer["digest"], trailer["magic"] = np.void(digest), np.void(TRAILER_MAGIC)
    trailer["file_size"] = offset + length + TRAILER.itemsize
    return trailer.tobytes()
