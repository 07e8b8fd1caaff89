"""Sets of shards: the files that a manifest names, each the very one that the set was made with."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from qformat.container.part import Part
from qformat.container.records import Limits
from qformat.container.sources import open_source
from qformat.errors import IntegrityError, InvalidFileError


def check_shard_name(name: Any, file: str) -> str:
    """InvalidFileError unless `name` is a bare file name on every system, ending like a shard does."""
    from pathlib import PurePosixPath, PureWindowsPath  # a set of shards is rare, and pathlib takes 4 ms

    plain = (
        isinstance(name, str)
        and name.isascii()
        and name.isprintable()
        and 0 < len(name) <= 255
        and PurePosixPath(name).name == name == PureWindowsPath(name).name
        and not any(c in name for c in '\\/:*?"<>|')
        and name.endswith(".qf")
        and name == name.strip()
        and name.split(".")[0].upper() not in ("CON", "PRN", "AUX", "NUL")
    )
    if not plain:
        raise InvalidFileError("not the name of a shard", file=file, field="json.shards.file", found=name)
    return str(name)


def table(first: Part, limits: Limits) -> list[dict[str, Any]]:
    """The rows of a manifest: file, size and digest of each shard; none of any other file.

    Raises:
        InvalidFileError: the table makes no sense.
    """
    rows = first.index.document.get("shards")
    if ("shards" in first.index.document["required"]) != (rows is not None):
        raise InvalidFileError(
            "shards and the feature of that name go together", file=first.source.path, field="json.shards"
        )
    if rows is None:
        return []
    file = first.source.path
    if not isinstance(rows, list) or not 1 <= len(rows) <= limits.shards or first.tensors:
        raise InvalidFileError("not a table of shards beside no tensors", file=file, field="json.shards")
    seen: set[str] = set()
    for row in rows:
        if not isinstance(row, dict) or set(row) != {"file", "size", "digest"}:
            raise InvalidFileError("a shard is file, size and digest", file=file, field="json.shards", found=row)
        name = check_shard_name(row["file"], file)
        if name in seen:
            raise InvalidFileError("a shard twice", file=file, field="json.shards", found=name)
        seen.add(name)
    return rows


def open_shards(first: Part, limits: Limits) -> list[Part]:
    """The other files of a set, each the very one that the manifest names: size and digest must agree."""
    rows = table(first, limits)
    file = first.source.path
    parts: list[Part] = []
    missing = []
    folder, separator, _ = file.rpartition("/")
    try:
        for row in rows:
            path = folder + separator + row["file"]
            try:
                part = Part(open_source(path), limits)
            except FileNotFoundError:
                missing.append(row["file"])
                continue
            parts.append(part)
            if "shards" in part.index.document or len(part.names) != part.tensors:
                raise InvalidFileError("a shard is itself a set, or has attachments", file=path, field="json.shards")
            if part.source.size != row["size"] or part.digest != row["digest"]:
                raise IntegrityError(
                    "not the shard that the set was made with",
                    file=path,
                    field="digest",
                    expected=row["digest"],
                    found=part.digest,
                )
        if missing:
            raise InvalidFileError(
                f"{len(missing)} of {len(rows)} shards are missing: {', '.join(missing[:5])}",
                file=file,
                field="json.shards",
            )
        every = [name for part in parts for name in part.names]
        if len(set(every)) != len(every):
            every.sort()
            twice = next(a for a, b in pairwise(every) if a == b)
            raise InvalidFileError("a tensor is in two shards", file=file, tensor=twice.decode(), field="json.shards")
    except BaseException:
        for part in parts:
            part.source.close()
        raise
    return parts
