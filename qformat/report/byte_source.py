"""Ranges of bytes of a local file or of an address that fsspec understands: how headers are read from afar."""

from __future__ import annotations

import os
import stat
from typing import Protocol

from qformat.errors import ChangedError, InvalidFileError
from qformat.remote import is_remote, open_remote


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


def open_bytes(path: str | os.PathLike[str]) -> ByteSource:
    """The source for a file name or address."""
    return open_remote(os.fspath(path)) if is_remote(os.fspath(path)) else LocalBytes(path)
