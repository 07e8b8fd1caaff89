"""The numbers of the container: magics, sizes, record types and limits. `spec/qformat-v1.md` says the same in words.

A file is a preamble, extents, then one or more pairs of index and trailer; all integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

MAJOR, MINOR = 0, 0  # 0 until the panel layout is fixed by experiment, then 1
PREAMBLE_MAGIC = b"\x89qf1\r\n\x1a\n"  # as PNG's: the high bit and both line ends show transfers that change bytes
INDEX_MAGIC = b"qfindex\0"
TRAILER_MAGIC = b"\n\x1a\r\n1fq\x89"

ALIGNMENT = 64
LARGE_ALIGNMENT = 4096
LARGE = 1 << 20  # extents of at least this logical length start on a page
CHUNK = 4 << 20  # logical bytes of a chunk; only the last chunk of an extent may be shorter
MAX_RATIO = 256  # a compressed chunk stands for at most this many times its stored bytes

NONE = 0xFFFFFFFF  # "no scheme", "no target"


class Kind(IntEnum):
    """What a record is. Unknown kinds from `OPTIONAL_KIND` up are skipped but verified, below it they are refused."""

    TENSOR = 0
    ALIAS = 1
    ATTACHMENT = 2


OPTIONAL_KIND = 128


class Encoding(IntEnum):
    """How the chunks of an extent that did shrink are stored; a chunk as long as its logical size is always raw."""

    RAW = 0
    ZSTD = 1
    SPLIT = 2


PREAMBLE = np.dtype([("magic", "V8"), ("major", "<u2"), ("reserved", "V54")])
TRAILER = np.dtype(
    [("offset", "<u8"), ("length", "<u8"), ("digest", "V32"), ("file_size", "<u8"), ("magic", "V8")]
)
HEADER = np.dtype(
    [
        ("magic", "V8"),
        ("major", "<u2"),
        ("minor", "<u2"),
        ("reserved", "<u4"),
        ("records", "<u8"),
        ("chunks", "<u8"),
        ("names_length", "<u8"),
        ("json_length", "<u8"),
        ("superseded_offset", "<u8"),
        ("superseded_length", "<u8"),
        ("superseded_digest", "V32"),
        ("reserved_2", "V32"),
    ]
)
RECORD = np.dtype(
    [
        ("name_length", "<u2"),
        ("kind", "u1"),
        ("rank", "u1"),
        ("dtype", "<u2"),
        ("encoding", "u1"),
        ("itemsize", "u1"),
        ("scheme", "<u4"),
        ("target", "<u4"),
        ("order", "<u4"),
        ("reserved", "<u4"),
        ("offset", "<u8"),
        ("length", "<u8"),
        ("stored", "<u8"),
        ("parameters", "<u8", (4,)),
        ("shape", "<u8", (8,)),
        ("error", "<f8"),
        ("max_error", "<f8"),
        ("digest", "V32"),
    ]
)
# What `content_digest` hashes of a tensor, after the names.
CONTENT = np.dtype(
    [
        ("kind", "u1"),
        ("rank", "u1"),
        ("dtype", "<u2"),
        ("encoding", "u1"),
        ("itemsize", "u1"),
        ("reserved", "<u2"),
        ("shape", "<u8", (8,)),
        ("parameters", "<u8", (4,)),
        ("length", "<u8"),
        ("scheme", "V32"),
        ("digest", "V32"),
    ]
)

NAN_BITS = 0x7FF8000000000000  # the one NaN that stands for "not measured"


@dataclass(frozen=True)
class Limits:
    """What this reader accepts at most. A caller may raise them, a file never does."""

    records: int = 1 << 20
    names_bytes: int = 64 << 20
    name_bytes: int = 512
    json_bytes: int = 8 << 20
    json_depth: int = 16
    json_string: int = 1 << 20
    json_values: int = 1 << 18
    metadata_bytes: int = 4 << 20
    rank: int = 8
    dim: int = 1 << 40
    elements: int = 1 << 48
    extent_bytes: int = 1 << 46
    shards: int = 99_999
    zstd_window: int = 8 << 20
    superseded: int = 1 << 16


LIMITS = Limits()


def align(position: int, alignment: int) -> int:
    """The first multiple of `alignment` (a power of two) that is not below `position`."""
    return (position + alignment - 1) & -alignment


def alignment_of(length: int) -> int:
    """Where an extent of this logical length may start."""
    return LARGE_ALIGNMENT if length >= LARGE else ALIGNMENT
