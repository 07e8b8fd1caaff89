"""Files whose hashes all agree, but whose index breaks one rule: what a careless or hostile writer could make."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from blake3 import blake3

from qformat.container import Writer
from qformat.container.assemble import trailer
from qformat.container.records import CHUNK_ROW, INDEX, RECORD, sections

PAD = "x" * 64  # in the metadata, so that JSON can grow and shrink without moving a table


class Index:
    """The tables of an index, to be changed in place."""

    def __init__(self, raw: bytes) -> None:
        self.raw = np.frombuffer(raw, np.uint8).copy()
        self.head = self.raw[: INDEX.itemsize].view(INDEX)
        counts = [int(self.head[name][0]) for name in ("records", "chunks", "names_length", "json_length")]
        starts = sections(*counts)
        sizes = (counts[0] * RECORD.itemsize, counts[1] * CHUNK_ROW.itemsize, counts[2], counts[3])
        tables = [self.raw[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        self.records, self.chunks, self.names, self.text = (
            tables[0].view(RECORD),
            tables[1].view(CHUNK_ROW),
            *tables[2:],
        )

    def replace(self, old: str, new: str) -> None:
        """Other text in the JSON; the pad takes up the difference."""
        text = self.text.tobytes().decode().replace(old, new)
        text = text.replace(PAD, "x" * (len(PAD) + len(self.text) - len(text)))
        self.text[:] = np.frombuffer(text.encode(), np.uint8)


def base() -> bytes:
    """A small valid file: rows of its index are a, b, c (an alias of a), and an attachment."""
    file = io.BytesIO()
    writer = Writer(file)
    for name, dtype, nbytes in (("a", "float16", 8), ("b", "float32", 16)):
        scheme = {"coding": {"coding": "dense", "dtype": dtype}}
        writer.tensor(name, scheme=scheme, dtype=dtype, shape=(4,), length=nbytes, data=[bytes(nbytes)])
    writer.alias("c", "a")
    writer.attachment("config.json", b"{}")
    writer.finish({"a.first": 1, "a.other": 2, "pad": PAD})
    return file.getvalue()


def forged() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file."""
    good = base()
    start, length = (int.from_bytes(good[-128 + place : -120 + place], "little") for place in (8, 16))

    def sign(change: Callable[[Index], Any]) -> bytes:
        index = Index(good[start : start + length])
        change(index)
        raw = index.raw.tobytes()
        return good[:start] + raw + trailer(start, len(raw), blake3(raw).digest())

    def put(field: str, row: int, value: Any) -> Callable[[Index], None]:
        def change(index: Index) -> None:
            index.records[field][row] = value

        return change

    def head(field: str, value: Any) -> Callable[[Index], None]:
        def change(index: Index) -> None:
            index.head[field] = value

        return change

    def chunk(field: str, value: int) -> Callable[[Index], None]:
        def change(index: Index) -> None:
            index.chunks[field][1] = value

        return change

    def text(old: str, new: str) -> Callable[[Index], None]:
        return lambda index: index.replace(old, new)

    def names(value: bytes) -> Callable[[Index], None]:
        def change(index: Index) -> None:
            index.names[: len(value)] = np.frombuffer(value, np.uint8)

        return change

    shape = np.zeros(8, np.uint64)
    shape[:2] = 1 << 40
    yield "record-kind-unknown", sign(put("kind", 1, 3))
    yield "record-reserved", sign(put("reserved", 1, 1))
    yield "record-dtype-unknown", sign(put("dtype", 1, 99))
    yield "record-scheme-out-of-range", sign(put("scheme", 1, 2))
    yield "record-rank-9", sign(put("rank", 1, 9))
    yield "record-dimension-too-large", sign(put("shape", 1, np.array([2**40 + 1, *[0] * 7], np.uint64)))
    yield "record-dimension-beyond-rank", sign(put("shape", 1, np.array([4, 4, *[0] * 6], np.uint64)))
    yield "record-order-repeats", sign(put("order", 1, 0))
    yield "record-offset-overlaps", sign(put("offset", 1, 64))
    yield "record-offset-wraps", sign(put("offset", 1, 2**64 - 64))
    yield "record-length-beyond", sign(put("length", 1, 1 << 45))
    yield "record-stored-differs", sign(put("stored", 1, 15))
    yield "record-chunks-zero", sign(put("chunks", 1, 0))
    yield "record-first-chunk-differs", sign(put("first_chunk", 1, 0))
    yield "alias-of-nothing", sign(put("target", 2, 9))
    yield "alias-of-itself", sign(put("target", 2, 2))
    yield "alias-differs", sign(put("offset", 2, 128))
    yield "chunk-codec-unknown", sign(chunk("codec", 9))
    yield "chunk-stored-differs", sign(chunk("stored", 12))
    yield "chunk-hash-differs", sign(chunk("xxh3", 1))
    yield "names-repeat", sign(names(b"aa"))
    yield "names-unsorted", sign(names(b"ba"))
    yield "names-control-byte", sign(names(b"\x1b"))
    yield "names-gap", sign(put("name_offset", 1, 2))
    yield "index-flags", sign(head("reserved_flags", 1))
    yield "index-records-beyond", sign(head("records", 1 << 40))
    yield "index-extents-end", sign(head("extents_end", start - 64))
    yield "index-previous-beyond", sign(head("previous_length", 64))
    yield "json-feature-required", sign(text('"required":[]', '"required":["teleport"]'))
    yield "json-duplicate-key", sign(text('"a.other"', '"a.first"'))
    yield "json-nan", sign(text('"a.other":2', '"a.other":NaN'))
    yield "json-member-missing", sign(text('"required"', '"requires"'))
    yield "json-not-json", sign(text("{", "["))

    def both(index: Index) -> None:
        index.records["rank"][1], index.records["shape"][1] = 2, shape

    yield "record-too-many-elements", sign(both)
