"""One file of a container: extents become bytes, and every chunk is checked when it is touched first."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from qformat.container import chunks
from qformat.container.constants import CHUNK, Kind
from qformat.container.digest import xxh3
from qformat.container.index import Index
from qformat.container.source import Source
from qformat.errors import IntegrityError

Array = np.ndarray[Any, Any]


class Part:
    """A source with its validated index; `number` is the shard's (0 for a single file or a manifest)."""

    def __init__(self, source: Source, index: Index, number: int, first_scheme: int) -> None:
        self.source, self.index, self.number, self.first_scheme = source, index, number, first_scheme
        # Two threads may both check a chunk; that costs time once and is never wrong.
        self.sound = np.zeros(len(index.chunk_stored), np.bool_)

    @cached_property
    def sequence(self) -> Array:
        """Record numbers of tensors and aliases in file order."""
        return np.argsort(self.index.records["order"][: self.index.tensors], kind="stable")

    @cached_property
    def names(self) -> list[str]:
        """Names of tensors and aliases in file order."""
        index = self.index
        end = int(index.starts[index.tensors]) if index.tensors < len(index.starts) else len(index.names)
        ordered = index.names[:end].decode("ascii").split("\0")
        return [ordered[i] for i in self.sequence.tolist()]

    def resolve(self, i: int) -> int:
        """The record that holds the extent of record `i`: itself, or an alias's target."""
        row = self.index.records[i]
        return int(row["target"]) if row["kind"] == Kind.ALIAS else i

    def read(self, i: int, start: int, stop: int | None) -> Array:
        """Logical bytes start…stop of record `i` as read-only uint8, a view of the mapping where they are stored raw.

        IntegrityError when a chunk is damaged, InvalidFileError when it does not decode, ValueError for a bad range.
        """
        i = self.resolve(i)
        row = self.index.records[i]
        length = int(row["length"])
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise ValueError(f"{self.index.name(i)}: bytes {start} to {stop} of {length}")
        if start == stop:
            self.source.check()
            return np.zeros(0, np.uint8)
        first = int(self.index.first_chunk[i])
        low, high = first + start // CHUNK, first + -(-stop // CHUNK)
        stored = self._stored(i, low, high)
        base = (low - first) * CHUNK
        whole = min(length, (high - first) * CHUNK)
        if stored.size == whole - base:
            data = stored
        else:
            data = self._decode(i, first, low, high, stored, whole - base)
        result = data[start - base : stop - base]
        if result.flags.writeable:
            result.flags.writeable = False
        return result

    def _stored(self, i: int, low: int, high: int) -> Array:
        """The stored bytes of chunks low…high of record `i`, checked unless they have been before."""
        index = self.index
        offset = int(index.chunk_offset[low])
        end = int(index.chunk_offset[high - 1]) + int(index.chunk_stored[high - 1])
        data = self.source.view(offset, end - offset)
        if self.source.local and self.sound[low:high].all():
            return data
        with self.source.guard():
            for chunk in range(low, high):
                if not (self.source.local and self.sound[chunk]):
                    at = int(index.chunk_offset[chunk]) - offset
                    self.check(i, chunk, data[at : at + int(index.chunk_stored[chunk])])
        self.sound[low:high] = True
        return data

    def check(self, i: int, chunk: int, data: Any) -> None:
        """IntegrityError unless `data` has the hash of chunk `chunk` of the table, which belongs to record `i`."""
        found, expected = xxh3(data), int(self.index.chunk_hash[chunk])
        if found != expected:
            raise IntegrityError("stored bytes are damaged", **self.place(i, chunk), expected=f"xxh3 {expected:016x}", found=f"{found:016x}")

    def place(self, i: int, chunk: int) -> dict[str, Any]:
        """Where chunk `chunk` of the table, of record `i`, is: the facts of an error about it."""
        return {
            "file": self.source.name,
            "tensor": self.index.name(i),
            "field": f"chunk {chunk - int(self.index.first_chunk[i])}",
            "offset": int(self.index.chunk_offset[chunk]),
        }

    def _decode(self, i: int, first: int, low: int, high: int, stored: Array, size: int) -> Array:
        index, row = self.index, self.index.records[i]
        out = np.empty(size, np.uint8)
        done, offset = 0, int(index.chunk_offset[low])
        with self.source.guard():
            for chunk in range(low, high):
                at = int(index.chunk_offset[chunk]) - offset
                length = chunks.chunk_length(int(row["length"]), chunk - first)
                data = stored[at : at + int(index.chunk_stored[chunk])]
                out[done : done + length] = chunks.decode(data, length, int(row["encoding"]), int(row["itemsize"]), **self.place(i, chunk))
                done += length
        return out
