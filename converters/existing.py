"""An output that is there already: whether it is what a run would make, and what that run said of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from qformat import container
from qformat.container import Container
from qformat.converters.conversion import Report, bits_per_weight
from qformat.converters.hashing import hash_file
from qformat.converters.plan import Plan
from qformat.converters.provenance import metadata_of
from qformat.converters.sources.directory import read_side_file
from qformat.errors import OutputError, QFormatError

_LEFT_DENSE = "left as it is by the run that made the file"


def existing(out: Path, plan: Plan, settings: Mapping[str, Any], shards: int) -> Report:
    """The report of the run that made `out`: gates that failed then fail again.

    Raises:
        OutputError: it is not what this run would make.
    """
    try:
        found = container.open(out)
    except QFormatError as error:
        raise OutputError("exists; overwrite (--overwrite) replaces it", file=str(out)) from error
    with found:
        if not _is_made(found, plan, settings, shards):
            raise OutputError("exists and is something else; overwrite (--overwrite) replaces it", file=str(out))
        return _report(out, found, plan)


def _is_made(found: Container, plan: Plan, settings: Mapping[str, Any], shards: int) -> bool:
    """Whether `found` holds the source's tensors and side files, coded and cut as asked. Cheap questions first."""
    source, written = plan.source, found.metadata.get("qformat.source.files")
    if len(found.parts) != shards + (shards > 1) or set(found.names()) != {item.name for item in plan.items}:
        return False
    unknown = dict.fromkeys((file.name for file in source.files), "")
    expected = metadata_of(plan, settings, unknown, {}, {})
    if any(found.metadata.get(key) != expected[key] for key in ("qformat.recipe", "qformat.tool")):
        return False
    if dict(found.attachments) != {name: read_side_file(file) for name, file in source.attachments.items()}:
        return False
    hashes = {file.name: str(hash_file(file)) for file in source.files}
    return bool(written == metadata_of(plan, settings, hashes, {}, {})["qformat.source.files"])


def _report(out: Path, found: Container, plan: Plan) -> Report:
    try:
        counts = msgspec.convert(found.metadata.get("qformat.nonfinite", {}), dict[str, dict[str, int]])
        nonfinite = {name: (count["nan"], count["inf"]) for name, count in counts.items()}
    except (msgspec.ValidationError, KeyError) as error:
        raise OutputError(
            "its metadata were edited; overwrite (--overwrite) replaces it", file=str(out), field="qformat.nonfinite"
        ) from error
    records = [found.record(item.name) for item in plan.items if item.action == "quantize"]
    return Report(
        out,
        found.digest,
        found.size,
        len(found.parts),
        bits_per_weight(found),
        plan,
        nonfinite=nonfinite,
        left_dense={r.name: _LEFT_DENSE for r in records if found.schemes[r.scheme]["coding"]["coding"] == "dense"},
        errors={r.name: r.error for r in records if r.error is not None},
        up_to_date=True,
    )
