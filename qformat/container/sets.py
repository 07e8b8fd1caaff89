"""Sets of shards as they lie in a directory: which set a file belongs to."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from qformat.container.part import Part
from qformat.container.records import INDEX, LIMITS, TRAILER
from qformat.container.shards import table
from qformat.container.sources import LocalFile
from qformat.errors import QFormatError

Row = dict[str, Any]  # file, size and digest of a shard


def rows_at(path: str | os.PathLike[str]) -> list[Row]:
    """The table of the set that is opened by the name `path`; empty where there is none, or none that can be read."""
    try:
        return _rows(path)
    except (OSError, QFormatError):
        return []


def claimed(folder: str | os.PathLike[str]) -> dict[str, str]:
    """The shards of the sets in a directory, by file name, and the name that each one's set is opened by."""
    beside = sorted(name for name in os.listdir(folder) if name.endswith(".qf"))
    return {row["file"]: name for name in beside for row in rows_at(os.path.join(folder, name))}


def set_of(path: str | os.PathLike[str]) -> str | None:
    """The name of the set that a file is a shard of. Nothing in a shard says so: the table of a set beside it does."""
    for place in (os.path.abspath(path), os.path.realpath(path)):
        folder, name = os.path.split(place)
        with suppress(OSError):  # a directory that cannot be listed
            if (found := claimed(folder).get(name)) is not None:
                return found
    return None


def _rows(path: str | os.PathLike[str]) -> list[Row]:
    """The table of a set; empty for another file. OSError or QFormatError for what is no file of this format."""
    source = LocalFile(os.fspath(path))
    try:
        return table(Part(source, LIMITS), LIMITS) if _mentions_shards(source) else []
    finally:
        source.close()


def _mentions_shards(source: LocalFile) -> bool:
    """Whether an index is worth reading for its table, by a look at the JSON at its end: most files are no sets."""
    end = source.size - TRAILER.itemsize
    if end < INDEX.itemsize:
        return False
    at = int(source.pread(end, TRAILER.itemsize).view(TRAILER)[0]["index_offset"])
    if at > end - INDEX.itemsize:
        return False
    length = int(source.pread(at, INDEX.itemsize).view(INDEX)[0]["json_length"])
    length = min(length + 63, LIMITS.json, end)  # it is padded to a multiple of 64
    return b'"shards"' in source.pread(end - length, length).tobytes()
