"""The first look at a file: preamble, trailer and index, in the order in which each is trusted."""

from __future__ import annotations

from typing import Any

import numpy as np

from qformat.container import chunks
from qformat.container.forward import Held
from qformat.container.index import Index, read
from qformat.container.records import BYTE_ORDER, MAGIC, PREAMBLE, TRAILER, TRAILER_MAGIC, VERSION, Limits
from qformat.container.sources import ByteSource, LocalFile
from qformat.errors import IntegrityError, InvalidFileError, LimitError, UnsupportedError

_HELD = 1 << 20  # an index up to this length is kept; of a longer one, what is asked for is read again

# What else a file may be, by how it begins.
_KINDS = {
    b"GGUF": "a GGUF file",
    b"PK\x03\x04": "a zip archive (or a PyTorch checkpoint)",
    b"\x1f\x8b": "gzip",
    b"\x80\x02": "a pickle",
    b"version https://git-lfs": "a Git LFS pointer: the file itself was not downloaded",
    b"<": "a web page",
    b"\x93NUMPY": "a numpy array",
    b"\x89QFM\n": "mangled by a text-mode transfer",
    b"\x89QFM\r\r": "mangled by a text-mode transfer",
    b"\0\0\0\0\0\0\0\0": "zeros: an interrupted or pre-sized download",
}


def read_index(source: ByteSource, limits: Limits) -> tuple[Index, str, tuple[int, int]]:
    """Preamble, trailer and index of a file, in the order in which each is trusted."""
    head = source.pread(0, min(source.size, PREAMBLE.itemsize)) if source.size else np.zeros(0, np.uint8)
    start = head.tobytes()
    if start[:8] != MAGIC[: len(start[:8])] or (start and len(start) < 8 and start != MAGIC[: len(start)]):
        what = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)
        if what is None and source.size > 10 and start[8:9] == b"{":
            what = "a safetensors file"
        raise InvalidFileError(
            "not a .qf file" + (f" but {what}" if what else ""), field="magic", offset=0, found=start[:8].hex()
        )
    least = PREAMBLE.itemsize + TRAILER.itemsize
    if source.size < least:
        raise InvalidFileError(
            "the file is cut short", field="size", expected=f"at least {least} bytes", found=source.size
        )
    preamble = head.view(PREAMBLE)[0]
    if int(preamble["byte_order"]) != BYTE_ORDER:
        raise InvalidFileError(
            "wrong byte order", field="preamble.byte_order", offset=8, found=hex(int(preamble["byte_order"]))
        )
    if int(preamble["major"]) != VERSION[0]:
        raise UnsupportedError(
            "another major version", field="preamble.major", expected=VERSION[0], found=int(preamble["major"])
        )
    if any(preamble["reserved"].tobytes()):
        raise InvalidFileError("reserved bytes are not zero", field="preamble.reserved", offset=16)
    at = source.size - TRAILER.itemsize
    tail = source.pread(at, TRAILER.itemsize).view(TRAILER)[0]
    if tail["magic"].tobytes() != TRAILER_MAGIC:
        raise InvalidFileError(
            "no trailer at the end: the file is cut short, or an edit was torn: see `qformat meta recover`",
            field="trailer.magic",
            offset=at,
        )
    if int(tail["checksum"]) != chunks.checksum(tail.tobytes()[: TRAILER.itemsize - 8]):
        raise IntegrityError("the trailer is damaged", field="trailer.checksum", offset=at)
    if any(tail["reserved"].tobytes()):
        raise InvalidFileError("reserved bytes are not zero", field="trailer.reserved", offset=at)
    if int(tail["file_size"]) != source.size:
        raise InvalidFileError(
            "the file has another length than it says",
            field="trailer.file_size",
            expected=int(tail["file_size"]),
            found=source.size,
        )
    offset, length = int(tail["index_offset"]), int(tail["index_length"])
    if offset % 64 or not PREAMBLE.itemsize <= offset <= at or length != at - offset:
        raise InvalidFileError("the index does not lie before the trailer", field="trailer.index_offset", found=offset)
    if length > limits.index:
        raise LimitError(
            "the index is too long", field="trailer.index_length", expected=f"at most {limits.index}", found=length
        )
    digest = tail["index_digest"].tobytes()
    held = length <= _HELD or not isinstance(source, LocalFile)
    origin = Held(source.pread(offset, length), offset, source.path) if held else source
    index = read(origin, offset, length, digest, limits)
    return index, digest.hex(), (VERSION[0], index.minor)


def trailer_is_whole(tail: Any, offset: int, length: int, end: int) -> bool:
    return bool(
        tail["magic"].tobytes() == TRAILER_MAGIC
        and int(tail["checksum"]) == chunks.checksum(tail.tobytes()[: TRAILER.itemsize - 8])
        and (int(tail["index_offset"]), int(tail["index_length"]), int(tail["file_size"])) == (offset, length, end)
    )
