"""Where bytes come from: a local file (mapped), or anything that fsspec can read in ranges."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import weakref
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qformat.container import _native
from qformat.errors import ChangedError, InvalidFileError
from qformat.remote import is_remote, open_remote

Bytes = NDArray[np.uint8]

_HUGE = 8 << 20  # more than a chunk, so that reading those reuses the memory that has been touched
LARGE = 2 << 20  # from this size on, what is read in one go, or lives as long as an index, is on huge pages


class ByteSource(Protocol):
    """Random access to a file that does not change."""

    path: str
    size: int

    def view(self, offset: int, length: int) -> Bytes:
        """Bytes without a copy where that is possible."""

    def pread(self, offset: int, length: int, into: Bytes | None = None) -> Bytes:
        """Bytes copied out: never a fault, whatever happens to the file meanwhile. `into` may be where they go."""

    def check(self) -> None:
        """ChangedError if the file is not the one that was opened, as it was."""

    def close(self) -> None: ...


class LocalFile:
    """A regular file, mapped read-only; its pages are shared with every process that maps it."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            # O_NONBLOCK: a FIFO or device must not block the open that finds out what it is.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
            raise  # the plain errors that every caller of open() knows
        except OSError as error:
            raise InvalidFileError(f"cannot be opened: {error.strerror}", file=path) from error
        try:
            found = os.fstat(self._fd)
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if not stat.S_ISREG(found.st_mode):
                raise InvalidFileError("not a regular file", file=path)
            self._signature = _signature(found)
            self.size = found.st_size
            self._mapping, self._map = _map(self._fd, self.size)
        except BaseException:
            os.close(self._fd)
            raise

    def check(self) -> None:
        if self._fd < 0:
            raise ValueError("the file is closed")
        if not _native.is_unchanged(self._fd, *self._signature):
            raise ChangedError("the file changed while it was open", file=self.path)

    def view(self, offset: int, length: int) -> Bytes:
        self.check()
        if length >= LARGE and self._mapping is not None:  # reading a small tensor should not read 2 MiB
            with suppress(OSError):  # a kernel without huge pages
                self._mapping.madvise(mmap.MADV_HUGEPAGE)
            self._mapping = None  # once is enough
        return self._map[offset : offset + length]

    def pread(self, offset: int, length: int, into: Bytes | None = None) -> Bytes:
        if self._fd < 0:
            raise ValueError("the file is closed")
        out = memory(length) if into is None else into[:length]
        done = 0
        while done < length:
            count = os.preadv(self._fd, [memoryview(out)[done:]], offset + done)
            if count == 0:
                raise ChangedError("the file is shorter than it was", file=self.path, offset=offset + done)
            done += count
        return out

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._mapping, self._map = None, np.zeros(0, np.uint8)  # arrays that callers hold keep the mapping alive


def memory(length: int, least: int = _HUGE) -> Bytes:
    """Room for `length` bytes, in huge pages from `least` on: a page fault for every 4 KiB costs more than the read."""
    if length < least:
        return np.empty(length, np.uint8)
    room = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages gives small ones
        room.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(room, np.uint8)


def _map(descriptor: int, size: int) -> tuple[mmap.mmap | None, Bytes]:
    """The file as a mapping and an array of it; pages that it loses read as zeros, and `check` tells."""
    if size == 0:
        return None, np.zeros(0, np.uint8)
    mapping = mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)  # private: see `allow_writing`
    array = np.frombuffer(mapping, np.uint8)
    weakref.finalize(mapping, _native.unprotect, _native.protect(array.ctypes.data, size)).atexit = False
    return mapping, array


def allow_writing(view: NDArray[Any]) -> None:
    """Let code that takes no notice of numpy's flag write to a view of a mapping: what it writes is this process's own,
    and never gets to the file. Contiguous views of other memory are left alone.
    """
    _native.allow_writing(view.ctypes.data, view.nbytes)


def _signature(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class RemoteFile:
    """A file behind a URL: one request for its size, then ranges."""

    TAIL = 1 << 18  # holds the index of some 800 tensors: a size request and two ranges open most models

    def __init__(self, url: str) -> None:
        self.path = url
        self._bytes = open_remote(url)
        self.size = self._bytes.size
        # The tail comes in one request with what a reader wants first: the trailer and, if it is small, the index.
        start = max(self.size - self.TAIL, 0)
        self._tail_start, self._tail = start, self._range(start, self.size - start)

    def _range(self, offset: int, length: int) -> Bytes:
        return np.frombuffer(self._bytes.read(offset, offset + length), np.uint8)

    def check(self) -> None:
        return None  # every range is checked against its hash

    def view(self, offset: int, length: int) -> Bytes:
        return self.pread(offset, length)

    def pread(self, offset: int, length: int, into: Bytes | None = None) -> Bytes:
        if offset >= self._tail_start:
            found = self._tail[offset - self._tail_start : offset - self._tail_start + length]
        else:
            found = self._range(offset, length)
        if into is None:
            return found
        into[:length] = found
        return into[:length]

    def close(self) -> None:
        return None


def open_source(path: str | os.PathLike[str]) -> ByteSource:
    """A local file, or a remote one when `path` is a URL.

    Raises:
        FileNotFoundError, PermissionError, IsADirectoryError: as open() does.
        InvalidFileError: not a regular file.
        UnsupportedError: the address needs a package that is not installed.
    """
    text = os.fspath(path)
    if is_remote(text):
        return RemoteFile(text)
    if "\0" in text:
        raise FileNotFoundError(errno.ENOENT, "a path holds no NUL", text)
    return LocalFile(text)
