"""Sets of shards: several files that one small manifest makes a model of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qformat.container.create import create
from qformat.container.part import Part
from qformat.container.records import LIMITS
from qformat.container.shards import check_shard_name
from qformat.container.sources import LocalFile
from qformat.errors import OutputError


def write_manifest(
    path: str | os.PathLike[str],
    shards: Sequence[str | os.PathLike[str]],
    metadata: Mapping[str, Any],
    attachments: Mapping[str, bytes] | None = None,
) -> str:
    """Write the file that is opened in the name of a set, after its shards; returns the set's digest.

    The shards, finished .qf files without attachments, must lie beside it; it pins the size and digest of each. What is
    left of a set that was at `path` is deleted: see `create`.

    Raises:
        OutputError: files that are no set together, or it cannot be written.
        InvalidFileError: a name that a shard cannot have, or a file that is no .qf file.
    """
    target = Path(path)
    rows, names = [], set[str]()
    for shard in map(Path, shards):
        if shard.parent.resolve() != target.parent.resolve():
            raise OutputError("a shard lies elsewhere", file=shard, expected=target.parent)
        check_shard_name(shard.name, str(target))
        source = LocalFile(os.fspath(shard))
        try:
            part = Part(source, LIMITS)
            rows.append({"file": shard.name, "size": source.size, "digest": part.digest})
        finally:
            source.close()
        if "shards" in part.index.document or len(part.names) != part.tensors:
            raise OutputError("is itself a set, or has attachments, and cannot be a shard", file=shard)
        own = part.names.text(np.arange(part.tensors))
        if (twice := next((name for name in own if name in names), None)) is not None:
            raise OutputError("a tensor is in two shards", file=shard, tensor=twice)
        names.update(own)
    if not rows:
        raise OutputError("a set needs a shard", file=target)
    with create(target) as writer:
        for name, data in (attachments or {}).items():
            writer.attachment(name, data)
        return writer.finish(metadata, shards=rows)
