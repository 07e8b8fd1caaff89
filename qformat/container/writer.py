"""The writer: an append-only state machine over any binary file object, a pipe included.

>>> import io
>>> file = io.BytesIO()
>>> writer = Writer(file)
>>> scheme = {"coding": {"coding": "dense", "dtype": "float32"}}
>>> entry = writer.tensor("w", scheme=scheme, dtype="float32", shape=(2, 2), length=16, data=[bytes(16)])
>>> entry = writer.alias("tied", "w")
>>> entry = writer.attachment("config.json", b"{}")
>>> digest = writer.finish({"general.name": "example"})

Extents are written as they come; the index, at the end, is built from the entries that each call returned. A journal
that keeps those entries can resume: cut the file to `entries[-1].end`, seek there and pass them to a new Writer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Literal

import numpy as np

from qformat.container import chunks, digest, records
from qformat.container.build import Entry, build_index, build_trailer
from qformat.container.constants import (
    ALIGNMENT,
    CHUNK,
    LIMITS,
    MAJOR,
    PREAMBLE,
    PREAMBLE_MAGIC,
    Encoding,
    Kind,
    align,
    alignment_of,
)
from qformat.container.document import Document, Features, Part, Shard
from qformat.dtypes import TABLE
from qformat.errors import OutputError

_ENCODINGS = {None: Encoding.RAW, "zstd": Encoding.ZSTD, "split": Encoding.SPLIT}


class Writer:
    """Writes one container to `file`, which needs nothing but `write`.

    `entries` are those of an earlier, interrupted Writer whose file was cut back to the end of the last one. `part`
    is (number, count) for a shard of a set. Misuse (a name twice, data of another length, a call after `finish` or
    after an error) raises ValueError or RuntimeError, a failed write OutputError.
    """

    def __init__(self, file: BinaryIO, *, entries: Sequence[Entry] = (), part: tuple[int, int] | None = None) -> None:
        self._file = file
        self._entries = list(entries)
        self._names = {(entry.kind == Kind.ATTACHMENT, entry.name) for entry in entries}
        self._position = max([PREAMBLE.itemsize, *(entry.end for entry in entries)])
        self._part = part
        self._open, self._finished = True, False
        # Extents are in the file once there is one; aliases alone leave nothing behind but the preamble.
        if not entries:
            self._position = 0
            self._write(preamble())

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries written so far, in order."""
        return tuple(self._entries)

    @property
    def position(self) -> int:
        """Bytes written so far, or the place of the last entry's end after resuming."""
        return self._position

    @property
    def finished(self) -> bool:
        """Whether `finish` wrote the trailer."""
        return self._finished

    def tensor(
        self,
        name: str,
        *,
        scheme: Mapping[str, Any],
        dtype: str,
        shape: Sequence[int],
        length: int,
        data: Iterable[Any],
        parameters: Sequence[int] = (),
        compression: Literal["zstd", "split"] | None = None,
        itemsize: int = 1,
        error: float | None = None,
        max_error: float | None = None,
    ) -> Entry:
        """Append one tensor: `data` yields buffers of `length` bytes in all (the extent); `dtype`, `shape` are the source's.

        `compression="split"` wants the element's `itemsize` (2 or 4). Returns the entry, written but not yet durable.
        """
        if dtype not in TABLE:
            raise ValueError(f"unknown dtype {dtype!r}")
        sizes = tuple(int(size) for size in shape)
        if len(sizes) > LIMITS.rank or any(not 0 <= size <= LIMITS.dim for size in sizes):
            raise ValueError(f"{name}: shape {sizes} is beyond the format's limits")
        if math.prod(max(size, 1) for size in sizes) > LIMITS.elements or len(parameters) > 4:
            raise ValueError(f"{name}: too many elements or parameters")
        encoding = _ENCODINGS[compression]
        if (itemsize in (2, 4)) != (encoding == Encoding.SPLIT) or (encoding != Encoding.SPLIT and itemsize != 1):
            raise ValueError(f"{name}: itemsize is 2 or 4 with split, else 1")
        return self._extent(
            name,
            Kind.TENSOR,
            length,
            data,
            encoding,
            itemsize,
            scheme=dict(scheme),
            dtype=dtype,
            shape=sizes,
            parameters=tuple(int(value) for value in parameters),
            error=None if error is None else float(error),
            max_error=None if max_error is None else float(max_error),
        )

    def attachment(self, name: str, data: Any, *, compression: Literal["zstd"] | None = None) -> Entry:
        """Append a file that belongs to the model (config.json, tokenizer files), under its file name."""
        return self._extent(name, Kind.ATTACHMENT, memoryview(data).nbytes, [data], _ENCODINGS[compression], 1)

    def alias(self, name: str, target: str) -> Entry:
        """Append a second name (a tied weight) for tensor `target` of this file, which may still be to come."""
        self._reserve(name, Kind.ALIAS)
        entry = Entry(name=name, kind=Kind.ALIAS, order=len(self._entries), target=target, offset=0)
        self._entries.append(entry)
        return entry

    def finish(self, metadata: Mapping[str, Any], *, shards: Sequence[Shard] = ()) -> str:
        """Append index and trailer and flush; returns the file's digest in hex. The Writer is then closed."""
        self._ready()
        tensors = {entry.name for entry in self._entries if entry.kind == Kind.TENSOR}
        for entry in self._entries:
            if entry.target is not None and entry.target not in tensors:
                raise ValueError(f"alias {entry.name}: there is no tensor {entry.target}")
        doc = Document(
            metadata=dict(metadata),
            shards=list(shards),
            features=Features(required=["shards"] if shards else []),
            part=Part(*self._part) if self._part else None,
        )
        index = build_index(self._entries, doc)
        self._write(bytes(align(self._position, ALIGNMENT) - self._position))
        trailer = build_trailer(index, self._position)
        self._write(index)
        self._write(trailer)
        self._file.flush()
        self._open, self._finished = False, True
        return digest.blake3_of(index).hex()

    def _extent(
        self, name: str, kind: Kind, length: int, data: Iterable[Any], encoding: Encoding, itemsize: int, **fields: Any
    ) -> Entry:
        if not 0 <= length <= LIMITS.extent_bytes:
            raise ValueError(f"{name}: an extent has 0 to {LIMITS.extent_bytes} bytes, not {length}")
        self._reserve(name, kind)
        offset = align(self._position, alignment_of(length))
        self._open = False  # an exception from here on leaves half an extent behind: nothing may follow it
        self._write(bytes(offset - self._position))
        whole = digest.hasher(length)
        hashes, sizes = [], []
        for chunk in _chunks(data, length, name):
            stored = chunks.encode(chunk, encoding, itemsize)
            whole.update(stored)
            hashes.append(digest.xxh3(stored))
            sizes.append(memoryview(stored).nbytes)
            self._write(stored)
        entry = Entry(
            name=name,
            kind=kind,
            order=len(self._entries),
            offset=offset,
            length=length,
            stored=sum(sizes),
            encoding=encoding,
            itemsize=itemsize,
            digest=whole.digest(),
            chunk_hash=tuple(hashes),
            chunk_stored=tuple(sizes),
            **fields,
        )
        self._entries.append(entry)
        self._open = True
        return entry

    def _ready(self) -> None:
        if not self._open:
            raise RuntimeError("the writer is finished, or an earlier error left half an extent")

    def _reserve(self, name: str, kind: Kind) -> None:
        self._ready()
        records.check_name(name, attachment=kind == Kind.ATTACHMENT)
        key = (kind == Kind.ATTACHMENT, name)
        if key in self._names:
            raise ValueError(f"{name}: the name is taken")
        self._names.add(key)

    def _write(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        self._position += len(view)
        try:
            while len(view):
                # A raw (unbuffered) file may write less than it was given.
                written = self._file.write(view)
                view = view[len(view) if written is None else written :]
        except OSError as error:
            self._open = False
            name = getattr(self._file, "name", None)  # an int where the file was opened by descriptor
            failure = OutputError(f"cannot write: {error.strerror or error}", file=name, offset=self._position - len(view))
            failure.errno = error.errno
            raise failure from error


def preamble() -> bytes:
    """The first 64 bytes of every file."""
    head = np.zeros(1, PREAMBLE)
    head["magic"], head["major"] = np.void(PREAMBLE_MAGIC), MAJOR
    return head.tobytes()


def _chunks(data: Iterable[Any], length: int, name: str) -> Iterator[memoryview]:
    """Regroup buffers into chunks of 4 MiB without copying where a buffer holds whole ones."""
    pending, total = bytearray(), 0
    for buffer in data:
        view = _flat(buffer)
        total += len(view)
        if total > length:
            break
        while len(view):
            if not pending and len(view) >= CHUNK:
                yield view[:CHUNK]
                view = view[CHUNK:]
                continue
            take = CHUNK - len(pending)
            pending += view[:take]
            view = view[take:]
            if len(pending) == CHUNK:
                yield memoryview(pending)
                pending = bytearray()
    if total != length:
        raise ValueError(f"{name}: {length} bytes were announced and {'more' if total > length else total} came")
    if pending:
        yield memoryview(pending)


def _flat(buffer: Any) -> memoryview:
    if isinstance(buffer, np.ndarray):
        # Types of ml_dtypes have no buffer protocol of their own; their bytes do.
        buffer = np.ascontiguousarray(buffer).reshape(-1).view(np.uint8)
    return memoryview(buffer).cast("B")
