"""Putting the packed slabs of a tensor together into its extent, in memory or, when it is large, in a spool file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qformat.errors import OutputError, QFormatError

CHUNK = 4 * 2**20
Bytes = npt.NDArray[np.uint8]


class _Cursor(NamedTuple):
    offset: int
    nbytes: int
    done: int


class Assembly:
    """The extent of one tensor, filled slab by slab in order.

    `places` is what `layout` says of the whole tensor: name → (offset, nbytes). A slab brings the next bytes of each
    place. Numbers of the whole tensor (a table, an offset) come with every slab and must agree.
    """

    def __init__(self, length: int, places: Mapping[str, Any], directory: Path, memory: Bytes) -> None:
        """`memory` is used if it is long enough, and is nobody else's until `close`."""
        self.length = length
        self._cursors = {name: _Cursor(offset, nbytes, 0) for name, (offset, nbytes) in places.items()}
        self._ends: dict[str, int] = {}  # row pointers: non-zeros so far
        self._buffer = memory[:length]
        self._spool = -1 if length <= memory.size else _spool_file(directory, length)
        end = 0
        for offset, nbytes in places.values():  # the padding between places; a new file has zeros of its own
            if self._spool < 0:
                self._buffer[end:offset] = 0
            end = offset + nbytes

    def add(self, parts: Mapping[str, Bytes]) -> None:
        """The next slab's bytes of every place."""
        for name, data in parts.items():
            if name.endswith("row_pointers"):
                data = self._moved(name, data)
            cursor = self._cursors[name]
            if cursor.done == cursor.nbytes and data.size:
                if data.size != cursor.nbytes or not np.array_equal(self._read(cursor.offset, cursor.nbytes), data):
                    raise QFormatError("slabs disagree on a number of the whole tensor", field=name)
                continue
            if data.size > cursor.nbytes - cursor.done:
                raise QFormatError(
                    "slabs are longer than their extent",
                    field=name,
                    expected=cursor.nbytes - cursor.done,
                    found=data.size,
                )
            self._write(cursor.offset + cursor.done, data)
            self._cursors[name] = cursor._replace(done=cursor.done + data.size)

    def _moved(self, name: str, data: Bytes) -> Bytes:
        """Row pointers of a slab, counted on from the slabs before it; only the first slab brings the leading 0."""
        pointers = data.view("<u4")
        before = self._ends.get(name)
        self._ends[name] = (before or 0) + int(pointers[-1])
        return data if before is None else (pointers[1:] + np.uint32(before)).view(np.uint8)

    def chunks(self) -> Iterator[Bytes]:
        """All bytes in order; QFormatError if a place is not full."""
        for name, cursor in self._cursors.items():
            if cursor.done != cursor.nbytes:
                raise QFormatError(
                    "slabs do not fill their extent", field=name, expected=cursor.nbytes, found=cursor.done
                )
        for start in range(0, self.length, CHUNK):
            yield self._read(start, min(CHUNK, self.length - start))

    def close(self) -> None:
        """Give the memory or the spool file back."""
        self._buffer = np.zeros(0, np.uint8)
        if self._spool >= 0:
            os.close(self._spool)
            self._spool = -1

    def _read(self, offset: int, nbytes: int) -> Bytes:
        if self._spool < 0:
            return self._buffer[offset : offset + nbytes]
        out = np.empty(nbytes, np.uint8)
        view = memoryview(out)
        while view:
            count = os.preadv(self._spool, [view], offset + nbytes - len(view))
            if count == 0:
                raise OutputError("the spool file ends early", offset=offset + nbytes - len(view))
            view = view[count:]
        return out

    def _write(self, offset: int, data: Bytes) -> None:
        if self._spool < 0:
            self._buffer[offset : offset + data.size] = data
            return
        view = memoryview(np.ascontiguousarray(data))
        while view:
            count = os.pwrite(self._spool, view, offset)
            offset, view = offset + count, view[count:]


def _spool_file(directory: Path, length: int) -> int:
    """A file without a name, beside the output: gone whatever happens."""
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # a file system without O_TMPFILE
        import tempfile

        descriptor, name = tempfile.mkstemp(prefix=".qformat-spool-", dir=directory)
        os.unlink(name)
    os.ftruncate(descriptor, length)
    return descriptor
