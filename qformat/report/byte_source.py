"""Ranges of bytes of a local file or of an address that fsspec understands: how headers are read from afar."""

from __future__ import annotations

import os
import stat
from typing import Protocol

from qformat.errors import ChangedError, InvalidFileError, UnsupportedError
from qformat.remote import filesystem, is_remote, read_range, reported


class ByteSource(Protocol):
    """Something with a size from which ranges can be read."""

    name: str
    size: int

    def read(self, start: int, stop: int) -> bytes:
        """Exactly the bytes [start, stop); an error when there are fewer."""

    def close(self) -> None:
        """Give back what is held."""


class LocalBytes:
    """A regular file, read with pread: what a changing file gives is an error, never a signal."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        # a FIFO must not block the open, and nothing but a regular file has a size to trust
        self._descriptor = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise InvalidFileError("not a regular file", file=self.name)
        self.size = status.st_size

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop)."""
        parts = []
        while start < stop:
            part = os.pread(self._descriptor, min(stop - start, 1 << 24), start)
            if not part:
                raise ChangedError("the file ended early", file=self.name, offset=start, expected=stop - start)
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


class RemoteBytes:
    """An address read through fsspec: one request for the size, one for each range."""

    def __init__(self, url: str) -> None:
        self.name = url
        self._filesystem, self._path = filesystem(url)
        with reported(url):
            size = self._filesystem.info(self._path).get("size")
        if not isinstance(size, int):
            raise UnsupportedError("the server does not tell the size of this file", file=url)
        self.size = size

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop)."""
        if start >= stop:
            return b""
        return read_range(self._filesystem, self._path, start, stop, self.name)

    def close(self) -> None:
        """Nothing is held open between requests."""


def open_bytes(path: str | os.PathLike[str]) -> ByteSource:
    """The source for a file name or address."""
    return RemoteBytes(os.fspath(path)) if is_remote(os.fspath(path)) else LocalBytes(path)
