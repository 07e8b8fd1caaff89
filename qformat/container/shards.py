"""Sets of shards: a manifest that holds no tensors lists the files that do; it is written last and opened by name."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from qformat.container.constants import Limits
from qformat.container.create import create
from qformat.container.document import Shard, check_shard_name
from qformat.container.index import read_index
from qformat.container.part import Part
from qformat.container.source import FileSource, RemoteSource, Source, is_url
from qformat.errors import InvalidFileError


def open_parts(manifest: Part, limits: Limits) -> list[Part]:
    """The shards of a manifest, in order; all are opened and compared with its table before any is used."""
    rows = manifest.index.document.shards
    file = manifest.source.name
    missing = [row.file for row in rows if manifest.source.local and not os.path.lexists(_beside(file, row.file))]
    if missing:
        raise InvalidFileError(f"{len(missing)} of {len(rows)} shards are missing: {', '.join(missing[:10])}", file=file, field="shards")
    parts: list[Part] = []
    try:
        for number, row in enumerate(rows, 1):
            parts.append(_open_part(manifest, number, row, limits, sum(len(p.index.document.schemes) for p in parts[-1:]) + (parts[-1].first_scheme if parts else 0)))
        _check_names(file, parts)
    except BaseException:
        for part in parts:
            part.source.close()
        raise
    return parts


def _beside(manifest: str, name: str) -> str:
    return f"{manifest.rsplit('/', 1)[0]}/{name}" if "/" in manifest else name


def _open_part(manifest: Part, number: int, row: Shard, limits: Limits, first_scheme: int) -> Part:
    path = _beside(manifest.source.name, row.file)
    where = {"file": path, "field": f"shards[{number - 1}]"}
    source: Source
    if manifest.source.local:
        _check_link(manifest.source.name, path, where)
        source = FileSource(path)
    else:
        source = RemoteSource(path)
    try:
        if source.size != row.size:
            raise InvalidFileError("shard has another size than the manifest says", **where, expected=row.size, found=source.size)
        index = read_index(source, limits)
        if index.digest.hex() != row.digest:
            raise InvalidFileError("shard is not the one that the manifest names: mixed sets", **where, expected=row.digest, found=index.digest.hex())
        if index.document.shards:
            raise InvalidFileError("a shard cannot be a manifest", **where)
        part = index.document.part
        count = len(manifest.index.document.shards)
        if part is not None and (part.number, part.count) != (number, count):
            raise InvalidFileError("shard has another number", **where, expected=f"{number} of {count}", found=f"{part.number} of {part.count}")
        return Part(source, index, number, first_scheme)
    except BaseException:
        source.close()
        raise


def _check_link(manifest: str, path: str, where: dict[str, Any]) -> None:
    """A shard may be a symlink only within what the manifest's own links allow (a hub cache links into `blobs/`)."""
    if not stat.S_ISLNK(os.lstat(path).st_mode):
        return
    allowed = {os.path.realpath(os.path.dirname(path) or "."), os.path.dirname(os.path.realpath(manifest))}
    try:
        target = os.path.realpath(path, strict=True)
    except OSError as error:
        raise InvalidFileError(f"shard is a broken link: {error.strerror}", **where) from error
    if os.path.dirname(target) not in allowed:
        raise InvalidFileError("shard is a link that leaves the directory", **where, found=target)


def _check_names(file: str, parts: Sequence[Part]) -> None:
    seen: dict[str, int] = {}
    for part in parts:
        for name in part.names:
            if name in seen:
                raise InvalidFileError("tensor is in two shards", file=file, tensor=name, field="shards", found=f"{seen[name]} and {part.number}")
            seen[name] = part.number


def shard_name(path: str | os.PathLike[str], number: int, count: int) -> str:
    """The path of shard `number` of `count` of the set that is opened as `path`."""
    stem = os.fspath(path).removesuffix(".qf")
    return f"{stem}-{number:05d}-of-{count:05d}.qf"


def write_manifest(
    path: str | os.PathLike[str],
    shard_paths: Sequence[str | os.PathLike[str]],
    metadata: Mapping[str, Any],
    attachments: Mapping[str, bytes] | None = None,
    *,
    overwrite: bool = False,
) -> str:
    """Write the manifest of finished shards that lie beside it, and return the set's digest.

    InvalidFileError when a shard is not sound or lies elsewhere.
    """
    path = os.fspath(path)
    rows = []
    for shard in map(os.fspath, shard_paths):
        name = os.path.basename(shard)
        check_shard_name(name, file=path)
        if os.path.realpath(os.path.dirname(shard) or ".") != os.path.realpath(os.path.dirname(path) or "."):
            raise InvalidFileError("a shard lies beside its manifest", file=shard, field="shards.file")
        source = FileSource(shard)
        try:
            rows.append(Shard(file=name, size=source.size, digest=read_index(source).digest.hex()))
        finally:
            source.close()
    with create(path, overwrite=overwrite) as writer:
        for name, data in (attachments or {}).items():
            writer.attachment(name, data)
        return writer.finish(metadata, shards=rows)
