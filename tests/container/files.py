"""Small files to read, and files with one thing in them changed while every hash is made right again."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blake3
import numpy as np

from qformat.container import Writer, strictjson
from qformat.container.assemble import trailer
from qformat.container.records import CHUNK_ROW, INDEX, RECORD, TRAILER, sections

DENSE = {"coding": {"coding": "dense", "dtype": "uint8"}}


def sample(metadata: dict[str, Any] | None = None) -> bytes:
    """Two tensors, an alias, an empty tensor and an attachment: 4 records with bytes, one without."""
    file = io.BytesIO()
    writer = Writer(file)
    writer.tensor(
        "b.weight", scheme=DENSE, dtype="uint8", shape=(10, 10), length=100, data=[bytes(range(100))], error=0.5
    )
    writer.tensor("a.weight", scheme=DENSE, dtype="uint8", shape=(3,), length=3, data=[b"abc"])
    writer.tensor("empty", scheme=DENSE, dtype="uint8", shape=(0, 4), length=0, data=[])
    writer.tensor(
        "zeros", scheme=DENSE, dtype="uint8", shape=(5000,), length=5000, data=[bytes(5000)], compression="zstd"
    )
    writer.alias("tied", "b.weight")
    writer.attachment("config.json", b"{}")
    writer.finish({"general.name": "sample"} if metadata is None else metadata)
    return file.getvalue()


class Parts:
    """An index taken apart: change the tables, then `bytes()` puts the file together with right hashes."""

    def __init__(self, raw: bytes) -> None:
        tail = np.frombuffer(raw[-TRAILER.itemsize :], TRAILER)[0]
        self.offset = int(tail["index_offset"])
        self.body = bytearray(raw[: self.offset])
        index = raw[self.offset : self.offset + int(tail["index_length"])]
        self.head = np.frombuffer(index[: INDEX.itemsize], INDEX).copy()
        counts = [int(self.head[name][0]) for name in ("records", "chunks", "names_length", "json_length")]
        starts = sections(*counts)
        self.records = np.frombuffer(index[starts[0] : starts[0] + counts[0] * RECORD.itemsize], RECORD).copy()
        self.chunks = np.frombuffer(index[starts[1] : starts[1] + counts[1] * CHUNK_ROW.itemsize], CHUNK_ROW).copy()
        self.names = index[starts[2] : starts[2] + counts[2]]
        self.json = index[starts[3] : starts[3] + counts[3]]

    def document(self, change: Callable[[dict[str, Any]], Any]) -> None:
        document = strictjson.json.loads(self.json)
        change(document)
        self.json = strictjson.dumps(document)

    def bytes(self) -> bytes:
        sizes = (len(self.records), len(self.chunks), len(self.names), len(self.json))
        for name, size in zip(("records", "chunks", "names_length", "json_length"), sizes, strict=True):
            self.head[name] = size
        starts = sections(*sizes)
        out = bytearray(starts[-1])
        out[: INDEX.itemsize] = self.head.tobytes()
        for start, part in zip(
            starts, (self.records.tobytes(), self.chunks.tobytes(), self.names, self.json), strict=False
        ):
            out[start : start + len(part)] = part
        return bytes(self.body) + sealed(bytes(out), len(self.body))


def sealed(index: bytes, offset: int) -> bytes:
    """An index and the trailer that vouches for it."""
    return index + trailer(offset, len(index), blake3.blake3(index).digest())


def put(folder: Path, raw: bytes, name: str = "x.qf") -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path
