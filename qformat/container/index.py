"""Reading an index: preamble, trailer and tables are checked from the outside in, before anything else is believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qformat.container import document, records
from qformat.container.constants import (
    ALIGNMENT,
    HEADER,
    INDEX_MAGIC,
    LIMITS,
    MAJOR,
    MINOR,
    PREAMBLE,
    PREAMBLE_MAGIC,
    RECORD,
    TRAILER,
    TRAILER_MAGIC,
    Kind,
    Limits,
    align,
)
from qformat.container.digest import blake3_of
from qformat.container.document import Document
from qformat.container.source import Source
from qformat.errors import IntegrityError, InvalidFileError, LimitError, UnsupportedError

Array = np.ndarray[Any, Any]

_SMALLEST = PREAMBLE.itemsize + HEADER.itemsize + TRAILER.itemsize
_KINDS = [
    (b"version https://git-lfs", "a Git LFS pointer"),
    (b"<", "HTML or XML"),
    (b"\x1f\x8b", "gzip"),
    (b"PK", "a zip archive (npz, pt)"),
    (b"\x80", "a pickle"),
    (b"GGUF", "GGUF"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\0\0\0\0\0\0\0\0", "zeros: an interrupted write or download"),
]


@dataclass
class Index:
    """One index that passed every check: its place, tables, names and document."""

    file: str
    offset: int
    length: int
    digest: bytes
    minor: int
    records: Array
    names: bytes
    starts: Array
    chunk_hash: Array
    chunk_stored: Array
    first_chunk: Array
    chunk_offset: Array
    extents_end: int
    document: Document
    extra: dict[str, Any]
    superseded: tuple[int, int, bytes] | None
    tensors: int

    def name(self, i: int) -> str:
        """The name of record `i`."""
        return self.raw_name(i).decode("ascii")

    def raw_name(self, i: int) -> bytes:
        """The name of record `i` as stored."""
        start = int(self.starts[i])
        return self.names[start : start + int(self.records["name_length"][i])]

    def find(self, name: str, *, attachment: bool = False) -> int:
        """The record called `name`, or −1: a binary search, so that opening builds no dictionary."""
        if not name.isascii():
            return -1
        wanted = name.encode()
        low, end = (self.tensors, len(self.records)) if attachment else (0, self.tensors)
        high = end
        while low < high:
            middle = (low + high) // 2
            if self.raw_name(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < end and self.raw_name(low) == wanted else -1


def read_trailer(source: Source) -> tuple[int, int, bytes]:
    """Check preamble and trailer; return the index's offset, length and digest."""
    size, file = source.size, source.name
    # Remote files are opened with two range reads: their preamble is checked when it came with the tail, or by verify.
    if size and (source.local or size <= (64 << 10)):
        check_preamble(source)
    if size < _SMALLEST:
        raise InvalidFileError("the file is too short", file=file, field="size", offset=size, expected=f"at least {_SMALLEST} bytes", found=size)
    base = size - TRAILER.itemsize
    trailer = np.frombuffer(source.read(base, TRAILER.itemsize), TRAILER)[0]
    magic = trailer["magic"].tobytes()
    if magic != TRAILER_MAGIC:
        raise InvalidFileError("no trailer at the end of the file: it is cut short, or bytes were added", file=file, field="trailer.magic", offset=base + 56, expected=TRAILER_MAGIC.hex(), found=magic.hex())
    if int(trailer["file_size"]) != size:
        raise InvalidFileError("the file has another size than its trailer says", file=file, field="trailer.file_size", offset=base + 48, expected=int(trailer["file_size"]), found=size)
    offset, length = int(trailer["offset"]), int(trailer["length"])
    if offset % ALIGNMENT or offset < PREAMBLE.itemsize or offset > base or length != base - offset:
        raise InvalidFileError("the index does not end at the trailer", file=file, field="trailer.offset", offset=base, expected=f"{base} in sum", found=f"{offset} + {length}")
    return offset, length, trailer["digest"].tobytes()


def check_preamble(source: Source) -> None:
    """Check the first 64 bytes: magic, major version, zeros."""
    head = source.read(0, min(PREAMBLE.itemsize, source.size))
    file = source.name
    if not head.startswith(PREAMBLE_MAGIC[: len(head)]):
        raise InvalidFileError(f"not a qformat file{_guess(head)}", file=file, field="preamble.magic", offset=0, expected=PREAMBLE_MAGIC.hex(), found=head[:8].hex())
    if len(head) < PREAMBLE.itemsize:
        raise InvalidFileError("the file ends inside its preamble", file=file, field="size", offset=len(head), expected=f"at least {_SMALLEST} bytes", found=len(head))
    preamble = np.frombuffer(head, PREAMBLE)[0]
    check_major(int(preamble["major"]), file, "preamble.major", 8)
    if preamble["reserved"].tobytes().strip(b"\0"):
        raise InvalidFileError("reserved bytes are not zero", file=file, field="preamble.reserved", offset=10)


def check_major(major: int, file: str, field: str, offset: int) -> None:
    """UnsupportedError for another major version."""
    if major != MAJOR:
        swapped = int.from_bytes(major.to_bytes(2, "little"), "big") == MAJOR
        hint = ": the byte order is wrong" if swapped and MAJOR else ""
        raise UnsupportedError(f"unknown major version{hint}", file=file, field=field, offset=offset, expected=MAJOR, found=major)


def _guess(head: bytes) -> str:
    if len(head) >= 8 and head[8:9] == b"{":
        return ", but safetensors"
    if head[:4] == PREAMBLE_MAGIC[:4] or head[1:4] == PREAMBLE_MAGIC[1:4]:
        return ": its first bytes were changed by a text-mode transfer"
    return next((f", but {kind}" for magic, kind in _KINDS if head.startswith(magic)), "")


def read_index(source: Source, limits: Limits = LIMITS) -> Index:
    """The current index of `source`, read into memory of its own and validated."""
    offset, length, digest = read_trailer(source)
    return parse_index(source, offset, length, digest, limits)


def parse_index(source: Source, offset: int, length: int, digest: bytes, limits: Limits = LIMITS) -> Index:
    """The index at `offset`; InvalidFileError, LimitError, IntegrityError or UnsupportedError."""
    file = source.name
    if length < HEADER.itemsize or length % ALIGNMENT:
        raise InvalidFileError("impossible index length", file=file, field="trailer.length", offset=offset, found=length)
    if length > _most_bytes(source.size, limits):
        raise LimitError("the index is too large", file=file, field="trailer.length", offset=offset, expected=f"at most {_most_bytes(source.size, limits)}", found=length)
    if source.local:
        _tables(np.frombuffer(source.read(offset, HEADER.itemsize), HEADER)[0], source, offset, length, limits)
    data = source.read(offset, length)
    found = blake3_of(data)
    if found != digest:
        raise IntegrityError("the index is damaged", file=file, field="index", offset=offset, expected=digest.hex(), found=found.hex())
    header = np.frombuffer(data, HEADER, 1)[0]
    places = _tables(header, source, offset, length, limits)
    newer = int(header["minor"]) > MINOR
    if data[places["end"] :].strip(b"\0"):
        raise InvalidFileError("padding is not zero", file=file, field="index", offset=offset + places["end"])
    text = data[places["json"] : places["end"]]
    # A required feature that is unknown may mean anything for the tables, so the document is read first.
    doc = document.decode(text, newer=newer, limits=limits, file=file, base=offset + places["json"])
    rows = np.frombuffer(data, RECORD, int(header["records"]), HEADER.itemsize)
    names = data[places["names"] : places["json"]]
    stored = np.frombuffer(data, "<u4", int(header["chunks"]), places["stored"])
    if data[places["stored"] + 4 * len(stored) : places["names"]].strip(b"\0"):
        raise InvalidFileError("padding is not zero", file=file, field="chunks", offset=offset + places["stored"])
    superseded = _superseded(header, source, offset)
    table = records.Table(rows, offset + HEADER.itemsize, file)
    records.check_names(table, names, offset + places["names"], limits)
    records.check_records(table, schemes=len(doc.schemes), newer=newer, limits=limits)
    end = records.check_extents(table, size=source.size, end=superseded[0] if superseded else offset)
    if not superseded and align(end, ALIGNMENT) != offset:
        raise InvalidFileError("gap before the index", file=file, field="trailer.offset", offset=end, expected=align(end, ALIGNMENT), found=offset)
    first, places_of_chunks = records.check_chunks(table, stored, offset + places["stored"])
    if doc.shards and (rows["kind"] != Kind.ATTACHMENT).any():
        raise InvalidFileError("a manifest holds attachments only", file=file, field="kind", offset=offset + HEADER.itemsize)
    return Index(
        file=file,
        offset=offset,
        length=length,
        digest=digest,
        minor=int(header["minor"]),
        records=rows,
        names=names,
        starts=table.starts,
        chunk_hash=np.frombuffer(data, "<u8", len(stored), places["hash"]),
        chunk_stored=stored,
        first_chunk=first,
        chunk_offset=places_of_chunks,
        extents_end=end,
        document=doc,
        extra=_extra(text),
        superseded=superseded,
        tensors=int((rows["kind"] != Kind.ATTACHMENT).sum()),
    )


def _extra(text: bytes) -> dict[str, Any]:
    import msgspec

    if b'"x-' not in text:
        return {}
    return {key: value for key, value in msgspec.json.decode(text).items() if key.startswith("x-")}


def _most_bytes(size: int, limits: Limits) -> int:
    # A chunk of 4 MiB is stored in 16 KiB at least, so the file's size bounds the chunk table.
    chunks = limits.records + size // (16 << 10)
    return HEADER.itemsize + limits.records * RECORD.itemsize + 12 * chunks + limits.names_bytes + limits.json_bytes + 128


def _tables(header: Any, source: Source, offset: int, length: int, limits: Limits) -> dict[str, int]:
    """Where in the index each table lies, from a header whose numbers add up to its length."""
    file = source.name
    if header["magic"].tobytes() != INDEX_MAGIC:
        raise InvalidFileError("not an index", file=file, field="index.magic", offset=offset, expected=INDEX_MAGIC.hex(), found=header["magic"].tobytes().hex())
    check_major(int(header["major"]), file, "index.major", offset + 8)
    if header["reserved"] or header["reserved_2"].tobytes().strip(b"\0"):
        raise InvalidFileError("reserved bytes are not zero", file=file, field="index.reserved", offset=offset + 12)
    for field, most in (("records", limits.records), ("names_length", limits.names_bytes), ("json_length", limits.json_bytes), ("chunks", length // 12)):
        if int(header[field]) > most:
            raise LimitError("a table is too large", file=file, field=f"index.{field}", offset=offset + HEADER.fields[field][1], expected=f"at most {most}", found=int(header[field]))
    hashes = HEADER.itemsize + int(header["records"]) * RECORD.itemsize
    stored = hashes + 8 * int(header["chunks"])
    names = align(stored + 4 * int(header["chunks"]), 8)
    json = names + int(header["names_length"])
    end = json + int(header["json_length"])
    if align(end, ALIGNMENT) != length:
        raise InvalidFileError("the tables do not fill the index", file=file, field="index.records", offset=offset, expected=length, found=align(end, ALIGNMENT))
    return {"hash": hashes, "stored": stored, "names": names, "json": json, "end": end}


def _superseded(header: Any, source: Source, offset: int) -> tuple[int, int, bytes] | None:
    old_offset, old_length = int(header["superseded_offset"]), int(header["superseded_length"])
    old_digest = header["superseded_digest"].tobytes()
    if not old_offset and not old_length and not old_digest.strip(b"\0"):
        return None
    sound = PREAMBLE.itemsize <= old_offset < offset and HEADER.itemsize <= old_length <= offset
    if not sound or old_offset % ALIGNMENT or old_offset + old_length + TRAILER.itemsize != offset:
        raise InvalidFileError("the superseded index does not end where this one begins", file=source.name, field="index.superseded_offset", offset=offset + HEADER.fields["superseded_offset"][1], expected=offset, found=f"{old_offset} + {old_length} + 64")
    return old_offset, old_length, old_digest
