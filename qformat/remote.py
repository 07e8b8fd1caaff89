"""Addresses (`https://…`, `hf://…`, `s3://…`): their file systems, and errors that say which address they are about."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

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


@dataclass
class RemoteBytes:
    """A file behind an address, which is its name: one request told its size, one reads each range."""

    name: str
    size: int
    _fetch: Callable[[int, int], bytes]

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop).

        Raises:
            UnsupportedError: the server knows no ranges.
            ChangedError: there are fewer bytes.
        """
        if start >= stop:
            return b""
        with reported(self.name):
            found = self._fetch(start, stop)
        if len(found) > stop - start:
            raise UnsupportedError("the server sends whole files, not ranges of them", file=self.name)
        if len(found) < stop - start:
            raise ChangedError("the file is shorter than it was", file=self.name, offset=start + len(found))
        return found

    def close(self) -> None:
        """Nothing is held open between requests."""


def open_remote(url: str) -> RemoteBytes:
    """Ask for the size of the file behind an address.

    Raises:
        UnsupportedError: a kind of address that nothing reads, or a size that nobody tells.
        OSError: there is no such file, or it cannot be reached.
    """
    files, path = filesystem(url)
    with reported(url):
        hub = _HubFile.find(files, path) if url.startswith("hf:") else None
        if hub is not None:
            return RemoteBytes(url, hub.size, hub.fetch)
        about = files.info(path)
        if about.get("type") == "directory":
            raise IsADirectoryError(errno.EISDIR, "is a directory", url)
        size = about.get("size")
    if not isinstance(size, int):
        raise UnsupportedError("the server does not tell the size of this file", file=url)
    return RemoteBytes(url, size, partial(_fetch, files, path))


def _fetch(files: Any, path: str, start: int, stop: int) -> bytes:
    found: bytes = files.cat_file(path, start=start, end=stop)
    return found


_ON_HUB = re.compile(r"(?:(model|dataset|space)s/)?([^/@]+/[^/@]+)(?:@(refs/(?:pr|convert)/[^/]+|[^/]+))?/(.+)")


class _HubFile:
    """A file of a hub, without what fsspec asks first: whether there is the repository, and what else is in it.

    The size request also tells where the hub keeps the bytes of a large file. They are read there, at an address that
    needs no token and holds for some time; those of others are read at the commit that was found.
    """

    def __init__(self, files: Any, parts: dict[str, str | None]) -> None:
        self._files, self._parts = files, parts
        self._locate()

    @classmethod
    def find(cls, files: Any, path: str) -> _HubFile | None:
        """The file at a path of a hub's file system; None where fsspec has to say what is, or is wrong, there."""
        from huggingface_hub.utils import HfHubHTTPError

        found = _ON_HUB.fullmatch(path)
        if found is None:
            return None
        kind, repository, revision, name = found.groups()
        about = {"repo_type": kind, "repo_id": repository, "filename": name}
        try:
            made = cls(files, {**about, "revision": None if revision is None else unquote(revision)})
        except HfHubHTTPError:
            return None
        return made if isinstance(made.size, int) else None

    def _locate(self) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        token, endpoint = self._files.token, self._files.endpoint
        url = hf_hub_url(**self._parts, endpoint=endpoint)
        found = get_hf_file_metadata(url, token=token)
        self.size = found.size
        self._parts["revision"] = found.commit_hash or self._parts["revision"]
        if urlsplit(found.location).netloc == urlsplit(url).netloc:
            self._place = hf_hub_url(**self._parts, endpoint=endpoint), build_hf_headers(token=token)
        else:
            self._place = found.location, {}

    def fetch(self, start: int, stop: int) -> bytes:
        from huggingface_hub.utils import hf_raise_for_status

        answer = self._get(start, stop)
        if answer.status_code in (401, 403):  # the time is over for which the address holds
            self._locate()
            answer = self._get(start, stop)
        hf_raise_for_status(answer)
        found: bytes = answer.content
        return found

    def _get(self, start: int, stop: int) -> Any:
        from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
        from huggingface_hub.utils import http_backoff

        url, headers = self._place
        headers = {**headers, "range": f"bytes={start}-{stop - 1}", "accept-encoding": "identity"}
        return http_backoff("GET", url, headers=headers, timeout=HF_HUB_DOWNLOAD_TIMEOUT)


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
