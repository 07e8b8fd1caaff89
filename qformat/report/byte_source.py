"""Ranges of bytes of a local file or of an address that fsspec understands: how headers are read from afar."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from qformat.errors import ChangedError, InvalidFileError, QFormatError, UnsupportedError

_PACKAGES = {"http": "aiohttp", "https": "aiohttp", "hf": "huggingface_hub", "s3": "s3fs", "gs": "gcsfs"}


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
        with reported(self.name):
            part: bytes = self._filesystem.cat_file(self._path, start=start, end=stop)
        if len(part) != stop - start:
            raise ChangedError(
                "the server sent another number of bytes than asked for",
                file=self.name,
                offset=start,
                expected=stop - start,
                found=len(part),
            )
        return part

    def close(self) -> None:
        """Nothing is held open between requests."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is an address (`https://…`) rather than a file."""
    scheme, mark, _ = os.fspath(path).partition("://")
    return bool(mark) and scheme.isalnum() and len(scheme) > 1


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for `url`, and the path in it."""
    scheme = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UnsupportedError("reading from an address needs the package fsspec", file=url) from None
    try:
        found, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        needs = f"needs the package {_PACKAGES[scheme]}" if scheme in _PACKAGES else f"cannot be read: {error}"
        raise UnsupportedError(f"an address of {scheme}:// {needs}", file=url) from None
    return found, path


def open_bytes(path: str | os.PathLike[str]) -> ByteSource:
    """The source for a file name or address."""
    return RemoteBytes(os.fspath(path)) if is_remote(path) else LocalBytes(path)


@contextmanager
def reported(url: str) -> Iterator[None]:
    """Turns whatever a file system's client raises into one typed error; OSErrors stay what they are."""
    try:
        yield
    except (OSError, QFormatError):
        raise
    except Exception as error:  # each kind of address has a client with errors of its own
        raise QFormatError("cannot be read", file=url, found=f"{type(error).__name__}: {error}") from error
