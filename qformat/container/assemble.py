"""The bytes around extents: preamble, index and trailer, from the entries of finished extents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from qformat.container import chunks, strictjson
from qformat.container.records import (
    BYTE_ORDER,
    CHUNK_ROW,
    INDEX,
    INDEX_MAGIC,
    KINDS,
    MAGIC,
    NONE,
    PREAMBLE,
    RANK,
    RECORD,
    TRAILER,
    TRAILER_MAGIC,
    VERSION,
    Kind,
    align,
    sections,
)
from qformat.dtypes import TABLE


class Entry(msgspec.Struct, frozen=True):
    """One finished extent (or alias): all that the index will say about it."""

    name: str
    kind: Kind
    scheme: dict[str, Any] | None
    dtype: str
    shape: tuple[int, ...]
    parameters: tuple[int, ...]
    offset: int
    length: int
    stored: int
    digest: bytes
    chunks: list[tuple[int, int, int]]  # stored length, codec, xxh3
    error: float | None = None
    max_error: float | None = None
    target: str | None = None

    @property
    def key(self) -> tuple[bool, str]:
        """What tells it from all others: attachments have names of their own."""
        return self.kind == "attachment", self.name

    @property
    def end(self) -> int:
        """File offset after the extent."""
        return self.offset + self.stored


def preamble() -> bytes:
    """The first 64 bytes of every file."""
    head = np.zeros(1, PREAMBLE)
    head["magic"], head["byte_order"], head["major"] = np.void(MAGIC), BYTE_ORDER, VERSION[0]
    return head.tobytes()


def trailer(offset: int, length: int, digest: bytes) -> bytes:
    """The last 128 bytes of a file whose index of `length` bytes begins at `offset`."""
    tail = np.zeros(1, TRAILER)
    tail["magic"], tail["index_offset"], tail["index_length"] = np.void(TRAILER_MAGIC), offset, length
    tail["file_size"], tail["index_digest"] = offset + length + TRAILER.itemsize, np.void(digest)
    tail["checksum"] = chunks.checksum(tail.tobytes()[: TRAILER.itemsize - 8])
    return tail.tobytes()


def build_index(entries: Sequence[Entry], document: dict[str, Any]) -> bytes:
    """The bytes of an index of entries in file order, the first of its file."""
    schemes: dict[bytes, int] = {}
    numbers = [
        NONE if e.scheme is None else schemes.setdefault(strictjson.dumps(e.scheme), len(schemes)) for e in entries
    ]
    first = np.concatenate([[0], np.cumsum([0 if e.kind == "alias" else len(e.chunks) for e in entries])]).astype(
        np.uint64
    )
    of_name = {e.key: i for i, e in enumerate(entries)}
    by_name = sorted(range(len(entries)), key=lambda i: (entries[i].kind == "attachment", entries[i].name.encode()))
    row_of = {i: row for row, i in enumerate(by_name)}
    records = np.zeros(len(entries), RECORD)
    names: list[bytes] = []
    position = 0
    for row, i in enumerate(by_name):
        e = entries[i]
        name = e.name.encode()
        names.append(name)
        target = NONE if e.target is None else row_of[of_name[False, e.target]]
        own = of_name[False, e.target] if e.target is not None else i
        shape = (*e.shape, *[0] * (RANK - len(e.shape)))
        nan = float("nan")
        records[row] = (
            position,
            len(name),
            KINDS.index(e.kind),
            numbers[i],
            TABLE[e.dtype].id,
            len(e.shape),
            shape,
            e.parameters,
            i,
            e.offset,
            e.length,
            e.stored,
            first[own],
            len(e.chunks),
            target,
            0,
            np.void(e.digest),
            nan if e.error is None else e.error,
            nan if e.max_error is None else e.max_error,
        )
        position += len(name)
    pool = b"".join(names)
    rows = [row for e in entries if e.kind != "alias" for row in e.chunks]
    table = np.array(rows, CHUNK_ROW) if rows else np.zeros(0, CHUNK_ROW)
    text = strictjson.dumps({**document, "schemes": [msgspec.json.decode(s) for s in schemes]})
    starts = sections(len(records), len(table), len(pool), len(text))
    head = np.zeros(1, INDEX)
    head["magic"], head["minor"], head["records"], head["chunks"] = (
        np.void(INDEX_MAGIC),
        VERSION[1],
        len(records),
        len(table),
    )
    head["names_length"], head["json_length"] = len(pool), len(text)
    head["extents_end"] = align(max((e.end for e in entries), default=PREAMBLE.itemsize))
    out = bytearray(starts[-1])
    out[: INDEX.itemsize] = head.tobytes()
    for start, part in zip(starts, (records.tobytes(), table.tobytes(), pool, text), strict=False):
        out[start : start + len(part)] = part
    return bytes(out)
