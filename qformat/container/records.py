"""The fixed-size structures of a file, as numpy dtypes: what the byte tables of spec/qformat-v1.md say, once more.

Everything is little-endian. Numbers that are added or compared are uint64, so that validation cannot wrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

VERSION = (1, 0)  # major: breaks; minor: adds

MAGIC = b"\x89QFM\r\n\x1a\n"  # a text-mode transfer changes it
INDEX_MAGIC = b"QFINDEX\n"
TRAILER_MAGIC = b"QFTRAIL\n"
BYTE_ORDER = 0x01020304

ALIGNMENT = 64
LARGE = 1 << 16  # extents of this many stored bytes begin on a page
PAGE = 4096
CHUNK = 4 << 20  # logical bytes of a chunk

RANK = 8
PARAMETERS = 4
NONE = (1 << 64) - 1  # "no such number" in a uint64 field

PREAMBLE = np.dtype([("magic", "V8"), ("byte_order", "<u4"), ("major", "<u4"), ("reserved", "V48")])

TRAILER = np.dtype(
    [
        ("magic", "V8"),
        ("index_offset", "<u8"),
        ("index_length", "<u8"),
        ("file_size", "<u8"),
        ("index_digest", "V32"),
        ("reserved", "V56"),
        ("checksum", "<u8"),
    ]
)

INDEX = np.dtype(
    [
        ("magic", "V8"),
        ("minor", "<u4"),
        ("reserved_flags", "<u4"),
        ("records", "<u8"),
        ("chunks", "<u8"),
        ("names_length", "<u8"),
        ("json_length", "<u8"),
        ("previous_offset", "<u8"),
        ("previous_length", "<u8"),
        ("previous_digest", "V32"),
        ("extents_end", "<u8"),
        ("reserved", "V24"),
    ]
)

RECORD = np.dtype(
    [
        ("name_offset", "<u8"),
        ("name_length", "<u8"),
        ("kind", "<u8"),
        ("scheme", "<u8"),
        ("dtype", "<u8"),
        ("rank", "<u8"),
        ("shape", "<u8", (RANK,)),
        ("parameters", "<u8", (PARAMETERS,)),
        ("order", "<u8"),
        ("offset", "<u8"),
        ("length", "<u8"),
        ("stored", "<u8"),
        ("first_chunk", "<u8"),
        ("chunks", "<u8"),
        ("target", "<u8"),
        ("reserved", "<u8"),
        ("digest", "V32"),
        ("error", "<f8"),
        ("max_error", "<f8"),
    ]
)

CHUNK_ROW = np.dtype([("stored", "<u4"), ("codec", "<u4"), ("xxh3", "<u8")])

Kind = Literal["tensor", "alias", "attachment"]
KINDS: tuple[Kind, ...] = ("tensor", "alias", "attachment")

RAW, ZSTD, SPLIT2, SPLIT4 = 0, 1, 2, 3


@dataclass(frozen=True)
class Limits:
    """What a reader accepts; every number can be raised by an argument, never by a file."""

    index: int = 1 << 30
    records: int = 1 << 20
    name: int = 512
    json: int = 32 << 20
    json_depth: int = 16
    dimension: int = 1 << 40
    elements: float = 2.0**48
    extent: int = 1 << 46
    shards: int = 99_999


LIMITS = Limits()


@dataclass(frozen=True)
class Record:
    """One tensor, alias or attachment, as the index tells it.

    `offset` and `stored` are bytes in the file (of shard number `shard`; 0 is the file itself), `length` the logical
    bytes of the extent, `digest` the BLAKE3 of its stored bytes.
    """

    name: str
    kind: Kind
    scheme: int
    dtype: str
    shape: tuple[int, ...]
    parameters: tuple[int, ...]
    order: int
    offset: int
    length: int
    stored: int
    digest: bytes
    error: float | None
    max_error: float | None
    shard: int
    target: str | None


def align(offset: int, to: int = ALIGNMENT) -> int:
    """The next multiple of `to`."""
    return -(-offset // to) * to


def extent_offset(end: int, length: int) -> int:
    """Where an extent of `length` logical bytes begins when the file ends at `end`."""
    return align(end, PAGE if length >= LARGE else ALIGNMENT)


def sections(records: int, chunks: int, names: int, json: int) -> list[int]:
    """Where the four tables of an index begin, and its length: each follows the one before at a multiple of 64."""
    starts = [INDEX.itemsize]
    for nbytes in (records * RECORD.itemsize, chunks * CHUNK_ROW.itemsize, names, json):
        starts.append(align(starts[-1] + nbytes))
    return starts
