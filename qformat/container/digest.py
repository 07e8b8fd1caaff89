"""The two hashes: xxh3-64 of a chunk finds damage, BLAKE3 of an extent or an index gives identity."""

from __future__ import annotations

from typing import Any

import blake3
import xxhash

_THREADED = 1 << 20  # below this many bytes threads cost BLAKE3 more than they bring


def xxh3(data: Any) -> int:
    """xxh3-64 (seed 0) of a buffer; the GIL is released meanwhile."""
    return xxhash.xxh3_64_intdigest(data)


def hasher(length: int) -> Any:
    """A BLAKE3 hasher for about `length` bytes: `update(buffer)`, `digest()`; large inputs use every core."""
    return blake3.blake3(max_threads=blake3.blake3.AUTO if length >= _THREADED else 1)


def blake3_of(data: Any) -> bytes:
    """BLAKE3 (32 bytes) of a buffer."""
    state = hasher(memoryview(data).nbytes)
    state.update(data)
    digest: bytes = state.digest()
    return digest
