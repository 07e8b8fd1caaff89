"""Editing metadata: a new index and trailer behind the old ones. Tensors are neither read nor moved."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import blake3
import numpy as np

from qformat.container import chunks, strictjson
from qformat.container.assemble import trailer
from qformat.container.part import Part
from qformat.container.records import INDEX, LIMITS, PREAMBLE, TRAILER, TRAILER_MAGIC, align, sections
from qformat.container.sets import set_of
from qformat.container.sources import LocalFile
from qformat.errors import InvalidFileError, OutputError, QFormatError, RecipeError


@contextmanager
def _locked(path: str | os.PathLike[str]) -> Iterator[int]:
    """The file, open for reading and writing, held by this process alone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise OutputError(f"cannot be opened for writing: {error.strerror}", file=path) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError("another process is editing this file", file=path) from error
        yield descriptor
    finally:
        os.close(descriptor)


def edit_metadata(path: str | os.PathLike[str], changes: Mapping[str, Any]) -> str:
    """Set metadata keys (or remove those whose value is None); returns the new digest in hex.

    Index, fsync, trailer, fsync: a kill in between leaves a file that says so when opened, and `recover` mends it.

    Raises:
        RecipeError: a value has no strict JSON form.
        OutputError: the file is a shard, another process edits it, or it cannot be written.
    """
    if (whole := set_of(path)) is not None:
        raise OutputError(f"a shard of {whole}, which pins its size and digest: edit {whole} instead", file=path)
    with _locked(path) as descriptor:
        source = LocalFile(os.fspath(path))
        try:
            part = Part(source, LIMITS)
        finally:
            source.close()
        size = os.fstat(descriptor).st_size
        metadata = {**part.index.document["metadata"], **changes}
        document = {**part.index.document, "metadata": {k: v for k, v in metadata.items() if v is not None}}
        try:
            text = strictjson.dumps(document)
            strictjson.loads(text, LIMITS)
        except (ValueError, TypeError) as error:
            raise RecipeError(f"metadata has no JSON form: {error}", file=path, field="metadata") from error
        tail = os.pread(descriptor, TRAILER.itemsize, size - TRAILER.itemsize)
        last = np.frombuffer(tail, TRAILER)[0]
        old_at, old_length = int(last["index_offset"]), int(last["index_length"])
        index = _with_document(
            os.pread(descriptor, old_length, old_at), text, (old_at, old_length, last["index_digest"].tobytes())
        )
        digest = blake3.blake3(index).digest()
        try:
            _append(descriptor, size, index)
            _append(descriptor, size + len(index), trailer(size, len(index), digest))
        except OSError as error:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
            raise OutputError(f"cannot be written: {error.strerror}; the file is as it was", file=path) from error
        return digest.hex()


def _with_document(index: bytes, text: bytes, previous: tuple[int, int, bytes]) -> bytes:
    """An index with the same tables and another document."""
    head = np.frombuffer(index[: INDEX.itemsize], INDEX).copy()
    starts = sections(int(head["records"][0]), int(head["chunks"][0]), int(head["names_length"][0]), len(text))
    head["json_length"] = len(text)
    head["previous_offset"], head["previous_length"], head["previous_digest"] = (
        previous[0],
        previous[1],
        np.void(previous[2]),
    )
    out = bytearray(starts[-1])
    out[: starts[3]] = index[: starts[3]]
    out[: INDEX.itemsize] = head.tobytes()
    out[starts[3] : starts[3] + len(text)] = text
    return bytes(out)


def _append(descriptor: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
    os.fsync(descriptor)


def recover(path: str | os.PathLike[str]) -> int:
    """Cut a torn edit off: truncate to the last trailer that closes a whole file; returns the bytes removed.

    Raises:
        InvalidFileError: there is no such trailer.
        OutputError: the file is locked or cannot be written.
    """
    with _locked(path) as descriptor:
        size = os.fstat(descriptor).st_size
        end = _last_whole(descriptor, size)
        if end is None:
            raise InvalidFileError("no whole file to go back to", file=path, field="trailer")
        if end < size:
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
        source = LocalFile(os.fspath(path))
        try:
            Part(source, LIMITS)
        except QFormatError as error:
            error.file = path
            raise
        finally:
            source.close()
        return size - end


def _last_whole(descriptor: int, size: int) -> int | None:
    """Where the last trailer ends whose checksum, place and index are right. Structures begin at multiples of 64."""
    block = 1 << 20
    least = PREAMBLE.itemsize + TRAILER.itemsize
    high = size // 64 * 64
    while high >= least:
        low = max(high - block, 0)
        raw = os.pread(descriptor, high - low + TRAILER.itemsize, low)
        for at in range((high - low) // 64 * 64, -1, -64):
            if raw[at : at + 8] == TRAILER_MAGIC and _closes(descriptor, raw[at : at + TRAILER.itemsize], low + at):
                return low + at + TRAILER.itemsize
        high = low
    return None


def _closes(descriptor: int, raw: bytes, at: int) -> bool:
    if len(raw) < TRAILER.itemsize:
        return False
    tail = np.frombuffer(raw, TRAILER)[0]
    offset, length = int(tail["index_offset"]), int(tail["index_length"])
    if (
        int(tail["checksum"]) != chunks.checksum(raw[:-8])
        or int(tail["file_size"]) != at + TRAILER.itemsize
        or align(offset) != offset
    ):
        return False
    return (
        length == at - offset
        and blake3.blake3(os.pread(descriptor, length, offset)).digest() == tail["index_digest"].tobytes()
    )
