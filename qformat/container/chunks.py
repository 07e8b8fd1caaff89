"""One chunk: at most 4 MiB of an extent, stored raw, as one zstd frame, or split into byte planes and then zstd.

A chunk that does not shrink is stored raw, which a reader sees from its stored length alone. Decoding trusts nothing:
the frame must declare the size that the index derives, be the only thing in the chunk, name no dictionary and keep to
the window limit; so memory is bounded by the chunk size whatever the bytes say.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qformat.container.constants import CHUNK, LIMITS, MAX_RATIO, Encoding
from qformat.errors import InvalidFileError, UnsupportedError

_MAGIC = b"\x28\xb5\x2f\xfd"
KNOWN = frozenset(int(encoding) for encoding in Encoding)
_UINT = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


def chunk_count(length: int) -> int:
    """Number of chunks of an extent of `length` logical bytes."""
    return -(-length // CHUNK)


def chunk_length(length: int, number: int) -> int:
    """Logical bytes of chunk `number`."""
    return min(CHUNK, length - number * CHUNK)


def encode(data: Any, encoding: Encoding, itemsize: int) -> Any:
    """The stored bytes of one chunk: `data` itself where encoding does not make it smaller."""
    if encoding == Encoding.RAW:
        return data
    planes = split(np.frombuffer(data, np.uint8), itemsize).data if encoding == Encoding.SPLIT else data
    frame = _compressor(encoding).compress(planes)
    size = memoryview(data).nbytes
    # What shrinks beyond the ratio that readers accept is stored raw too: honest, and rare outside all-zero tensors.
    return frame if len(frame) < size <= len(frame) * MAX_RATIO else data


def decode(stored: Any, length: int, encoding: int, itemsize: int, **place: Any) -> np.ndarray[Any, Any]:
    """The `length` logical bytes of a chunk as uint8; a view of `stored` when raw.

    `place` (file, tensor, field, offset) goes into the errors: InvalidFileError when the frame is not exactly what the
    index says, UnsupportedError for an encoding of a later version.
    """
    flat = np.frombuffer(stored, np.uint8)
    if flat.size == length:
        return flat
    if encoding == Encoding.ZSTD:
        return np.frombuffer(decompress(flat, length, **place), np.uint8)
    if encoding == Encoding.SPLIT:
        return join(np.frombuffer(decompress(flat, length, **place), np.uint8), itemsize)
    raise UnsupportedError("unknown encoding", expected="0 (raw), 1 (zstd), 2 (split)", found=encoding, **place)


def decompress(stored: np.ndarray[Any, Any], length: int, **place: Any) -> bytes:
    """Exactly `length` bytes from exactly one zstd frame."""
    import zstandard

    if bytes(stored[:4]) != _MAGIC:
        raise InvalidFileError("not a zstd frame", expected=_MAGIC.hex(), found=bytes(stored[:4]).hex(), **place)
    try:
        frame = zstandard.get_frame_parameters(stored.data)
    except zstandard.ZstdError as error:
        raise InvalidFileError(f"bad zstd frame header: {error}", **place) from error
    # A frame without a size reports 2^64 - 1, which no chunk has.
    if frame.content_size != length:
        raise InvalidFileError("the zstd frame declares another size", expected=length, found=frame.content_size, **place)
    if frame.dict_id:
        raise InvalidFileError("the zstd frame needs a dictionary", expected=0, found=frame.dict_id, **place)
    if frame.window_size > LIMITS.zstd_window:
        raise InvalidFileError("the zstd window is too large", expected=LIMITS.zstd_window, found=frame.window_size, **place)
    try:
        data: bytes = zstandard.ZstdDecompressor().decompress(stored.data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise InvalidFileError(f"bad zstd frame: {error}", **place) from error
    if len(data) != length:
        raise InvalidFileError("the zstd frame holds another size", expected=length, found=len(data), **place)
    return data


def split(data: np.ndarray[Any, Any], itemsize: int) -> np.ndarray[Any, Any]:
    """Byte planes of little-endian elements rotated left by one bit, lowest byte first; a partial element stays behind.

    The rotation moves a float's sign to the bottom, so that the top plane of bf16 is the exponent alone: the only part
    of trained weights that compresses (ZipNN, arXiv 2411.05239 §3).
    """
    whole = data.size // itemsize * itemsize
    items = data[:whole].view(_UINT[itemsize])
    rotated = (items << 1) | (items >> (8 * itemsize - 1))
    planes = rotated.view(np.uint8).reshape(-1, itemsize).T
    return np.concatenate([planes.reshape(-1), data[whole:]])


def join(planes: np.ndarray[Any, Any], itemsize: int) -> np.ndarray[Any, Any]:
    """The inverse of `split`."""
    whole = planes.size // itemsize * itemsize
    rotated = np.ascontiguousarray(planes[:whole].reshape(itemsize, -1).T).view(_UINT[itemsize]).reshape(-1)
    items = (rotated >> 1) | (rotated << (8 * itemsize - 1))
    if whole == planes.size:
        return items.view(np.uint8)
    return np.concatenate([items.view(np.uint8), planes[whole:]])


def _compressor(encoding: Encoding) -> Any:
    # Made anew for every chunk: a context belongs to one thread, and costs nothing beside 4 MiB of work.
    import zstandard

    if encoding == Encoding.ZSTD:
        return zstandard.ZstdCompressor(level=3)
    # Exponents have a skewed histogram but no repeats: a search that finds next to none leaves entropy coding alone,
    # which is both smaller (33.7 % off Gaussian bf16 instead of 32.0 %) and faster than any preset level.
    parameters = zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST,
        min_match=7,
        window_log=22,
        hash_log=6,
        chain_log=6,
        search_log=1,
        target_length=0,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)
