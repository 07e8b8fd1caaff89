"""Where the bytes come from: a mapped local file, or ranges of a remote object through fsspec."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from qformat.errors import ChangedError, InvalidFileError, UnsupportedError

TAIL = 64 << 10  # the first range read of a remote file; a small index comes with the trailer


class Source(Protocol):
    """A sequence of bytes of known size."""

    name: str
    size: int
    local: bool

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes in memory of their own, or ChangedError."""

    def view(self, offset: int, length: int) -> np.ndarray[Any, Any]:
        """The bytes as a read-only uint8 array: of the mapping where there is one."""

    def check(self) -> None:
        """ChangedError when the source is no longer what was opened, ValueError after close."""

    def guard(self) -> AbstractContextManager[None]:
        """Surround work on views: `check` before and after it."""

    def advise(self, offset: int, length: int) -> None:
        """Ask for a range to be read ahead."""

    def close(self) -> None:
        """Give the file back; views that are still alive keep their mapping."""


class FileSource:
    """A regular local file, mapped read-only.

    The identity (device, inode, size, mtime) at open is compared before and after every access: a file that was
    truncated or written in place is reported, while one that was replaced by rename or unlinked goes on being read,
    since the old inode stays. `size` may be set below the file's length to read an older state of it.
    """

    local = True

    def __init__(self, path: str | os.PathLike[str], size: int | None = None) -> None:
        self.name = os.fspath(path)
        # O_NONBLOCK: opening a FIFO must fail at once instead of waiting for a writer.
        self._fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._map: mmap.mmap | None = None
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidFileError("not a regular file", file=self.name)
            self._identity = _identity(status)
            self.size = status.st_size if size is None else size
            if self.size:
                self._map = mmap.mmap(self._fd, self.size, access=mmap.ACCESS_READ)
                self._bytes = np.frombuffer(self._map, np.uint8)
            else:
                self._bytes = np.zeros(0, np.uint8)
        except BaseException:
            os.close(self._fd)
            raise

    def check(self) -> None:
        if self._fd < 0:
            raise ValueError(f"{self.name}: the file is closed")
        found = _identity(os.fstat(self._fd))
        if found != self._identity:
            raise ChangedError(
                "the file changed while it was open",
                file=self.name,
                field="device, inode, size, mtime",
                expected=self._identity,
                found=found,
            )

    def read(self, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with pread, which reports a short file where a mapping would raise SIGBUS."""
        self.check()
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], offset + done)
            if count == 0:
                raise ChangedError("the file ends early", file=self.name, offset=offset + done, expected=self.size)
            done += count
        self.check()

    def view(self, offset: int, length: int) -> np.ndarray[Any, Any]:
        self.check()
        return self._bytes[offset : offset + length]

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        self.check()
        yield
        self.check()

    def advise(self, offset: int, length: int) -> None:
        """Ask the kernel to read a range ahead."""
        if self._map is not None and length:
            start = offset & -mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, offset + length - start)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            # The mapping goes when its last view does: closing it under a live view would be a crash.
            self._bytes = np.zeros(0, np.uint8)
            self._map = None

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class RemoteSource:
    """An object behind an fsspec URL: one size request, then range reads; the tail is kept."""

    local = False

    def __init__(self, url: str) -> None:
        self.name = url
        self._fs, self._path = filesystem(url)
        self.size = int(self._fs.info(self._path)["size"])
        self._tail_start = max(0, self.size - TAIL)
        self._tail = self._range(self._tail_start, self.size - self._tail_start) if self.size else b""
        self._closed = False

    def check(self) -> None:
        if self._closed:
            raise ValueError(f"{self.name}: the file is closed")

    def read(self, offset: int, length: int) -> bytes:
        self.check()
        if length == 0:
            return b""
        if offset >= self._tail_start:
            return self._tail[offset - self._tail_start :][:length]
        return self._range(offset, length)

    def _range(self, offset: int, length: int) -> bytes:
        data = bytes(self._fs.cat_file(self._path, start=offset, end=offset + length))
        if len(data) != length:
            raise ChangedError("a range read came back short", file=self.name, offset=offset, expected=length, found=len(data))
        return data

    def view(self, offset: int, length: int) -> np.ndarray[Any, Any]:
        return np.frombuffer(self.read(offset, length), np.uint8)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        self.check()
        yield

    def advise(self, offset: int, length: int) -> None:
        """Nothing to do: a remote range is fetched when it is read."""

    def close(self) -> None:
        self._closed = True
        self._tail = b""


def is_url(path: object) -> bool:
    """Whether `path` names a remote object rather than a local file."""
    return isinstance(path, str) and "://" in path


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of `url` and the path in it; UnsupportedError names a package that is missing."""
    protocol = url.split("://", 1)[0]
    try:
        import fsspec

        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UnsupportedError(f"reading {protocol}:// needs a package that is not installed: {error}", file=url) from error
    except ValueError as error:
        raise UnsupportedError(f"unknown protocol: {error}", file=url, field="protocol", found=protocol) from error
    return fs, path


def open_source(path: str | os.PathLike[str]) -> Source:
    """The source that `path` (a local path or an fsspec URL) names."""
    if is_url(path):
        return RemoteSource(str(path))
    return FileSource(path)
