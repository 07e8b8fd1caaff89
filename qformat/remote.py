"""Addresses (`https://…`, `hf://…`, `s3://…`): their file systems, and errors that say which address they are about."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qformat.errors import ChangedError, QFormatError, UnsupportedError

# What reads which kind of address; fsspec itself comes with qformat.
_PACKAGES = {"http": "aiohttp", "https": "aiohttp", "hf": "huggingface_hub", "s3": "s3fs", "gs": "gcsfs"}


def is_remote(path: str) -> bool:
    """Whether `path` is an address rather than the name of a file."""
    scheme, mark, _ = path.partition("://")
    return bool(mark) and scheme.isalnum() and len(scheme) > 1


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it.

    Raises:
        UnsupportedError: a kind of address that nothing reads, or a package is missing.
    """
    scheme = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        with reported(url):  # some kinds connect at once
            try:
                found, path = url_to_fs(url)
            except ValueError as error:
                raise UnsupportedError(f"no reader for this address: {error}", file=url) from None
    except ImportError as error:
        needed = _PACKAGES.get(scheme, error.name or "fsspec")
        raise UnsupportedError(f"{scheme}:// needs the package {needed}, which is not installed", file=url) from None
    return found, path


def read_range(files: Any, path: str, start: int, stop: int, url: str) -> bytes:
    """The bytes [start, stop) of `path` in a file system; errors name `url`.

    Raises:
        UnsupportedError: the server knows no ranges.
        ChangedError: there are fewer bytes.
    """
    with reported(url):
        found: bytes = files.cat_file(path, start=start, end=stop)
    if len(found) > stop - start:
        raise UnsupportedError("the server sends whole files, not ranges of them", file=url)
    if len(found) < stop - start:
        raise ChangedError("the file is shorter than it was", file=url, offset=start + len(found))
    return found


@contextmanager
def reported(url: str) -> Iterator[None]:
    """Whatever a client raises leaves as an OSError of its kind, or a QFormatError, that names the address."""
    try:
        yield
    except (QFormatError, ImportError):
        raise
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec calls everything so that keeps a web server from telling a size
        unreachable = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
        if unreachable or getattr(cause, "status", 404) != 404:
            raise OSError(errno.EIO, str(cause) or type(cause).__name__, url) from error
        raise FileNotFoundError(errno.ENOENT, "not found", url) from error
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error) or type(error).__name__, url) from error
    except Exception as error:  # each kind of address has a client with errors of its own
        raise QFormatError(f"cannot be read: {error or type(error).__name__}", file=url) from error
