"""Sets of shards as they lie in a directory: which set a file belongs to, and what is left of one that was replaced."""

from __future__ import annotations

import os
import re
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


def drop_replaced(path: str | os.PathLike[str], rows: list[Row]) -> None:
    """Delete what is left of the set that was at `path`, where something else is now; `rows` was its table.

    A file stays that the new set, or another one in the directory, claims. So does one that only has a name of the
    table: it has another content, and no name of the form that `qformat convert` gives to the shards of `path`.
    """
    if not rows:
        return
    folder, name = os.path.split(os.path.abspath(path))
    try:
        kept = claimed(folder).keys() | {row["file"] for row in _rows(path)} | {name}
    except (OSError, QFormatError):
        return  # whoever cannot tell what is there now must not delete
    stem, suffix = os.path.splitext(name)
    own = re.compile(rf"{re.escape(stem)}-\d{{5}}-of-\d{{5}}{re.escape(suffix)}")
    for row in rows:
        shard = os.path.join(folder, row["file"])
        if row["file"] not in kept and (own.fullmatch(row["file"]) or _is_shard(shard, row)):
            with suppress(FileNotFoundError, IsADirectoryError):
                os.unlink(shard)


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


def _is_shard(path: str, row: Row) -> bool:
    """Whether a file is the very one that a row of a table says."""
    try:
        source = LocalFile(path)
    except (OSError, QFormatError):
        return False
    try:
        return bool(source.size == row["size"] and Part(source, LIMITS).digest == row["digest"])
    except (OSError, QFormatError):
        return False
    finally:
        source.close()
