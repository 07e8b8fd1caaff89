"""Editing the metadata of a finished file, whatever its size: a new index and trailer are appended, nothing is moved."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from qformat.container.build import assemble, build_trailer
from qformat.container.constants import ALIGNMENT, HEADER, MINOR, PREAMBLE, TRAILER, TRAILER_MAGIC
from qformat.container.create import output_errors
from qformat.container.index import check_preamble, read_index
from qformat.container.source import FileSource
from qformat.errors import InvalidFileError, LimitError, OutputError, QFormatError, UnsupportedError


def edit_metadata(path: str | os.PathLike[str], changes: Mapping[str, Any | None]) -> str:
    """Set (or, with None, delete) metadata keys and return the file's new digest; `content_digest` stays.

    The index goes to the disk before the trailer does, so a crash leaves either the old file, the new one, or a torn
    one that `recover` cuts back to the old. OutputError when another writer holds the lock; a shard is refused,
    because its manifest pins it: edit the manifest.
    """
    path = os.fspath(path)
    with _locked(path) as fd:
        source = FileSource(path)
        try:
            index = read_index(source)
        finally:
            source.close()
        if index.minor > MINOR:
            raise UnsupportedError("the file is of a later minor version", file=path, field="index.minor", expected=MINOR, found=index.minor)
        if index.document.part is not None:
            raise OutputError("the file is a shard, pinned by its manifest: edit that", file=path, field="part")
        metadata = {**index.document.metadata, **changes}
        metadata = {key: value for key, value in metadata.items() if value is not None}
        new = assemble(
            index.records,
            index.chunk_hash,
            index.chunk_stored,
            index.names,
            msgspec.structs.replace(index.document, metadata=metadata),
            index.extra,
            (index.offset, index.length, index.digest),
        )
        end = index.offset + index.length + TRAILER.itemsize
        trailer = build_trailer(new, end)
        with output_errors(path):
            if os.fstat(fd).st_size != end:
                raise OutputError("the file changed before it was locked", file=path)
            _append(fd, new, end)
            os.fsync(fd)
            _append(fd, trailer, end + len(new))
            os.fsync(fd)
    return trailer[16:48].hex()


def recover(path: str | os.PathLike[str]) -> int:
    """Cut a file that a torn edit left behind back to its last whole trailer; returns the number of bytes removed.

    A sound file is left alone (0). InvalidFileError, and nothing changed, when no state of the file is whole.
    """
    path = os.fspath(path)
    with _locked(path) as fd:
        size = os.fstat(fd).st_size
        for end in _whole_ends(path, size):
            if end < size:
                with output_errors(path):
                    os.ftruncate(fd, end)
                    os.fsync(fd)
            return size - end
    raise InvalidFileError("no whole index is left", file=path, field="trailer")


def _whole_ends(path: str, size: int) -> Iterator[int]:
    """Where the file could end and be sound, the last first."""
    budget = 4 * size + (1 << 20)  # bytes to hash in all: crafted trailers must not make this quadratic
    source = FileSource(path)
    try:
        check_preamble(source)
        for end in _trailer_ends(source):
            candidate = FileSource(path, end)
            try:
                yield read_index(candidate).offset and end
            except QFormatError:
                trailer = source.read(end - TRAILER.itemsize, TRAILER.itemsize)
                budget -= HEADER.itemsize + min(int.from_bytes(trailer[8:16], "little"), size)
                if budget < 0:
                    raise LimitError("too many false trailers", file=path, field="trailer", offset=end) from None
            finally:
                candidate.close()
    finally:
        source.close()


def _trailer_ends(source: FileSource) -> Iterator[int]:
    """Ends of all aligned 64-byte pieces that look like a trailer, from the back."""
    block = 4 << 20
    high = source.size
    while high > PREAMBLE.itemsize:
        low = max(0, (high - 1) // block * block)
        data = source.read(low, high - low)
        at = len(data)
        while (at := data.rfind(TRAILER_MAGIC, 0, at + 7)) >= 0:
            end = low + at + len(TRAILER_MAGIC)
            if end % ALIGNMENT == 0 and end > PREAMBLE.itemsize + HEADER.itemsize:
                yield end
        high = low


@contextlib.contextmanager
def _locked(path: str) -> Iterator[int]:
    """A descriptor of `path` for writing, with the lock that every writer takes."""
    with output_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidFileError("not a regular file", file=path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError("another writer holds the file", file=path, field="lock") from error
        yield fd
    finally:
        os.close(fd)


def _append(fd: int, data: bytes, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)
