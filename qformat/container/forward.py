"""Reading an index once, from its beginning to its end, through little memory.

New memory is what costs most when a large index is opened: on a virtual machine the host may have to find every page of
it. So the bytes pass through a few buffers, where a thread beside hashes them, and little of them is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

import blake3
import numpy as np
from numpy.typing import NDArray

from qformat.container.sources import LARGE, memory

Bytes = NDArray[np.uint8]

BLOCK = 1 << 19  # bytes of a buffer: whole rows of every table
_BUFFERS = 3


class Readable(Protocol):
    """What can be read at any place."""

    path: str

    def pread(self, offset: int, length: int, into: Bytes | None = None) -> Bytes: ...


class Held:
    """Bytes in memory, where the file has them from byte `start` on."""

    def __init__(self, raw: Bytes, start: int, path: str) -> None:
        self.raw, self.start, self.path = raw, start, path

    def pread(self, offset: int, length: int, into: Bytes | None = None) -> Bytes:
        """A view, whatever `into` is: this memory does not change."""
        del into
        return self.raw[offset - self.start : offset - self.start + length]


class Forward:
    """Bytes [at, at + length) of a source, in their order, each hashed as it was handed out.

    Attributes:
        at: the byte that comes next.
        sums: BLAKE3 of each block that `blocks` gave; complete after `digest`.
    """

    def __init__(self, source: Readable, at: int, length: int) -> None:
        self.at, self._source, self._end = at, source, at + length
        self.sums: list[bytes] = []
        self._hash = blake3.blake3()
        self._free: SimpleQueue[Bytes] = SimpleQueue()
        self._full: SimpleQueue[tuple[Bytes, Bytes | None, bool] | None] = SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(np.empty(min(BLOCK, length), np.uint8))
        self._beside = Thread(target=self._drain) if length > 2 * BLOCK else None  # a thread costs as much as a block
        if self._beside is not None:
            self._beside.start()

    def blocks(self, length: int) -> Iterator[Bytes]:
        """The next `length` bytes in blocks, each of which is there until the next one is asked for."""
        for start in range(0, length, BLOCK):
            yield self._next(min(BLOCK, length - start), summed=True)

    def take(self, length: int) -> Bytes:
        """The next `length` bytes, to keep."""
        kept = self._source.pread(self.at, length, memory(length, LARGE))
        self.at += length
        self._hand_on(kept, None, False)
        return kept

    def digest(self) -> bytes:
        """BLAKE3 of all bytes, also of those that nobody has asked for."""
        while self.at < self._end:
            self._next(min(BLOCK, self._end - self.at), summed=False)
        self.close()
        return self._hash.digest()

    def close(self) -> None:
        """End the thread when it has hashed what was handed out."""
        if self._beside is not None:
            self._full.put(None)
            self._beside.join()
            self._beside = None

    def _next(self, size: int, summed: bool) -> Bytes:
        buffer = self._free.get()
        block = self._source.pread(self.at, size, buffer)
        self.at += size
        self._hand_on(block, buffer, summed)
        return block

    def _hand_on(self, block: Bytes, buffer: Bytes | None, summed: bool) -> None:
        self._full.put((block, buffer, summed))
        if self._beside is None:
            self._full.put(None)
            self._drain()

    def _drain(self) -> None:
        """Hash what was handed out; a buffer is free for the next block but two."""
        while (item := self._full.get()) is not None:
            block, buffer, summed = item
            self._hash.update(block)
            if summed:
                self.sums.append(blake3.blake3(block).digest())
            if buffer is not None:
                self._free.put(buffer)
