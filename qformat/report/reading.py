"""Opening whatever is to be looked at: finds the format by what the bytes say, and makes its `Overview`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from qformat.remote import is_remote, open_remote
from qformat.report.byte_source import ByteSource, LocalBytes
from qformat.report.overview import Overview

GGUF = b"GGUF"


@contextmanager
def read(path: str | os.PathLike[str]) -> Iterator[Overview]:
    """The overview of a .qf, safetensors or GGUF file, of a directory of safetensors files, or of an address.

    Raises:
        QFormatError: the header breaks its format, or the format is not known.
        OSError: the file cannot be opened.
    """
    name = os.fspath(path)
    if _is_directory(name):
        from qformat.report import checkpoint

        yield checkpoint.overview(name)
        return
    source = _foreign_source(name)
    if source is None:
        from qformat.report import own_file  # numpy and the container are not needed for anything else

        with own_file.read(name) as view:
            yield view
        return
    try:
        yield _foreign(source)
    finally:
        source.close()


def _is_directory(name: str) -> bool:
    if not is_remote(name):
        return os.path.isdir(name)
    from qformat.report import checkpoint

    return checkpoint.is_directory(name)


def _foreign(source: ByteSource) -> Overview:
    # an address has told what it is by its name: a look inside would be one more request
    known = _plain_name(source.name).endswith(".gguf") if is_remote(source.name) else None
    if known or (known is None and source.read(0, min(source.size, len(GGUF))) == GGUF):
        from qformat.report import gguf_header

        return gguf_header.overview(source)
    from qformat.report import safetensors_header

    return safetensors_header.overview(source)


def _foreign_source(name: str) -> ByteSource | None:
    """The source of a safetensors or GGUF file; None for everything else, which the container is to judge.

    Local files are known by their first bytes, addresses by their names: a look inside would be one more request.
    """
    if is_remote(name):
        return open_remote(name) if _plain_name(name).endswith((".safetensors", ".gguf")) else None
    source = LocalBytes(name)
    head = source.read(0, min(source.size, 9))
    header_length = int.from_bytes(head[:8], "little")
    is_safetensors = (head[8:9] == b"{" and header_length <= source.size - 8) or name.endswith(".safetensors")
    if head[:4] == GGUF or is_safetensors:
        return source
    source.close()
    return None


def _plain_name(address: str) -> str:
    """An address without its query."""
    return address.partition("?")[0]
