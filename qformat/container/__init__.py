"""The container: bytes under names, proven whole. It knows nothing of what the bytes mean.

with container.create("x.qf") as writer: …      one file, all at once
Writer(file, entries=…)                         append-only, to any binary file or pipe, resumable
with container.open("x.qf") as opened: …        a mapping of names to records; `read` gives bytes
container.edit_metadata("x.qf", {"general.name": "…"}); container.recover("x.qf")
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from qformat.container.create import create
from qformat.container.reader import Container
from qformat.container.records import LIMITS, VERSION, Limits, Record

if TYPE_CHECKING:
    from qformat.container.edit import edit_metadata, recover
    from qformat.container.manifest import write_manifest
    from qformat.container.writer import Entry, Writer

__all__ = [
    "VERSION",
    "Container",
    "Entry",
    "Limits",
    "Record",
    "Writer",
    "create",
    "edit_metadata",
    "open",
    "recover",
    "write_manifest",
]


def open(path: str | os.PathLike[str], *, limits: Limits = LIMITS) -> Container:
    """The container at a path or URL, validated. See `Container`.

    Raises:
        FileNotFoundError, PermissionError, IsADirectoryError: as the built-in open does.
        QFormatError: the file is not, or is more than, what this reader takes.
    """
    return Container(path, limits)


def __getattr__(name: str) -> Any:
    # whoever only reads does not wait for what writes
    if name in ("Entry", "Writer"):
        from qformat.container import writer

        return getattr(writer, name)
    if name in ("edit_metadata", "recover"):
        from qformat.container import edit

        return getattr(edit, name)
    if name == "write_manifest":
        from qformat.container import manifest

        return manifest.write_manifest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
