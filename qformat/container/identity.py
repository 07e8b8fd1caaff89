"""`content_digest`: what the tensors are, whatever file they lie in."""

from __future__ import annotations

from collections.abc import Sequence

import blake3
import numpy as np

from qformat.container.constants import CONTENT, Kind
from qformat.container.part import Part
from qformat.container.strictjson import canonical


def content_digest(parts: Sequence[Part]) -> str:
    """BLAKE3 over names, shapes, dtypes, parameters, schemes and tensor digests, in hex.

    Metadata, attachments, order, measured errors and the cut into shards leave it unchanged. It hashes the names in
    ascending order, each with a NUL, then one `CONTENT` row for each in the same order; an alias has its target's
    row with its own kind.
    """
    names: list[bytes] = []
    rows = []
    for part in parts:
        index = part.index
        names.extend(index.raw_name(i) for i in range(index.tensors))
        rows.append(_rows(part))
    table = np.concatenate(rows) if rows else np.zeros(0, CONTENT)
    order = sorted(range(len(names)), key=names.__getitem__)
    state = blake3.blake3()
    state.update(b"".join(names[i] + b"\0" for i in order))
    state.update(np.ascontiguousarray(table[order]).tobytes())
    return str(state.hexdigest())


def _rows(part: Part) -> np.ndarray:  # type: ignore[type-arg]
    index = part.index
    records = index.records[: index.tensors]
    kind = records["kind"]
    source = records[np.where(kind == Kind.ALIAS, records["target"], np.arange(len(records)))]
    schemes = np.array([blake3.blake3(canonical(scheme)).digest() for scheme in index.document.schemes], "V32")
    rows = np.zeros(len(records), CONTENT)
    for field in ("rank", "dtype", "encoding", "itemsize", "shape", "parameters", "length", "digest"):
        rows[field] = source[field]
    rows["kind"] = kind
    tensors = source["kind"] == Kind.TENSOR
    if tensors.any():
        rows["scheme"][tensors] = schemes[source["scheme"][tensors]]
    return rows
