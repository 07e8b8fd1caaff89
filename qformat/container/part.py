"""One file of a container, and reads that believe a chunk only when its hash agrees."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from qformat.container import chunks
from qformat.container.index import ALIAS
from qformat.container.opening import read_index
from qformat.container.records import CHUNK, RAW, Limits
from qformat.container.sources import ByteSource
from qformat.errors import IntegrityError, QFormatError

Bytes = NDArray[np.uint8]


class Part:
    """One file of a container: its bytes, its index and what of it has been checked."""

    def __init__(self, source: ByteSource, limits: Limits) -> None:
        self.source = source
        try:
            self.index, self.digest, self.version = read_index(source, limits)
        except BaseException as error:
            source.close()
            if isinstance(error, QFormatError):
                error.file = error.file or source.path
            raise
        self.tensors, self.names = self.index.tensors, self.index.names
        self.touched = np.zeros(len(self.index.chunks), bool)

    def find(self, name: bytes, first: int, last: int) -> int | None:
        row = bisect_left(self.names, name, first, last)
        return row if row < last and self.names[row] == name else None

    def read(self, row: int, start: int, stop: int) -> Bytes:
        """Logical bytes [start, stop) of an extent; IntegrityError if a chunk of them is damaged."""
        r = self.index.records[row]
        first, length = int(r["first_chunk"]), int(r["length"])
        low, high = start // CHUNK, -(-stop // CHUNK) if stop > start else start // CHUNK
        table = self.index.chunks[first : first + int(r["chunks"])]
        before = int(table["stored"][:low].sum(dtype=np.uint64))
        if (table["codec"][low:high] == RAW).all():
            base = int(r["offset"]) + before
            if not self.touched[first + low : first + high].all():
                for chunk in range(low, high):
                    at = base + (chunk - low) * CHUNK
                    self._check(row, first + chunk, at, self.source.view(at, int(table["stored"][chunk])))
                self.source.check()
            return self.source.view(base + start - low * CHUNK, stop - start)
        pieces, position = [], int(r["offset"]) + before
        for chunk in range(low, high):
            stored = self.source.pread(position, int(table["stored"][chunk]))
            self._check(row, first + chunk, position, stored)
            raw = chunks.decode(int(table["codec"][chunk]), stored, min(CHUNK, length - chunk * CHUNK))
            pieces.append(raw)
            position += stored.size
        whole = np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)
        return whole[start - low * CHUNK : stop - low * CHUNK]

    def _check(self, row: int, chunk: int, position: int, stored: Bytes) -> None:
        """IntegrityError unless `stored`, the bytes at `position` of the file, have the chunk's hash."""
        if self.touched[chunk]:
            return
        expected = int(self.index.chunks["xxh3"][chunk])
        found = chunks.checksum(stored)
        if found != expected:
            self.source.check()  # a file that has shrunk is not a damaged one
            inside = chunk - int(self.index.records[row]["first_chunk"])
            raise IntegrityError(
                "damaged",
                file=self.source.path,
                tensor=self.names[row].decode(),
                field=f"chunk {inside}",
                offset=position,
                expected=f"{expected:016x}",
                found=f"{found:016x}",
            )
        self.touched[chunk] = True

    def in_file_order(self) -> list[int]:
        """Records that have an extent of their own."""
        order = self.index.order
        rows: list[int] = order[self.index.records.whole()["kind"][order] != ALIAS].tolist()
        return rows
