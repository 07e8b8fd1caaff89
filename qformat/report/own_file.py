"""The overview of a .qf file, from the tables of its index: no tensor is touched."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat import container, dtypes
from qformat.container import Container
from qformat.container.records import NONE
from qformat.report.overview import Attachment, Overview, Row, Stored
from qformat.report.schemes import SchemeFacts, facts


@contextmanager
def read(path: str | os.PathLike[str]) -> Iterator[Overview]:
    """The overview of the .qf file or shard set at `path`; its rows can be asked for while the context lasts."""
    with container.open(path) as opened:
        yield Overview(
            os.fspath(path),
            "qformat",
            ".".join(map(str, opened.version)),
            opened.size,
            lambda: rows(opened),
            opened.metadata,
            digest=opened.digest,
            content_digest=lambda: opened.content_digest,
            attachments=_attachments(opened),
            files=[part.source.path for part in opened.parts[1:]],
        )


def _attachments(opened: Container) -> list[Attachment]:
    """Names and sizes of the attachments; their bytes stay where they are."""
    return [
        Attachment(part.names[row].decode(), int(part.index.records[row]["length"]))
        for part in opened.parts
        for row in range(part.tensors, len(part.names))
    ]


def rows(opened: Container) -> Sequence[Row]:
    """One row for each tensor and alias, in the file's order; made by columns, since there may be many."""
    schemes = [facts(scheme) for scheme in opened.schemes]
    made: list[Row] = []
    for part, (records, names, base) in zip(opened.parts, opened.columns(), strict=True):
        targets = records["target"].tolist()
        shapes, weights = _shapes(records)
        made += map(
            Row._make,
            zip(
                names,
                shapes,
                [0 if target != NONE else weight for weight, target in zip(weights, targets, strict=True)],
                records["length"].tolist(),
                _stored(records, schemes, base),
                _optional(records["error"]),
                _optional(records["max_error"]),
                [None if target == NONE else part.names[target].decode() for target in targets],
                strict=True,
            ),
        )
    return made


def _shapes(records: NDArray[Any]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The shapes, and the number of elements of each; a model has few different ones, so each is made once."""
    fields = np.column_stack([records["rank"], records["shape"]])
    width, raw = fields.shape[1] * fields.itemsize, fields.tobytes()
    known: dict[bytes, tuple[int, ...]] = {}
    shapes = []
    for start in range(0, len(raw), width):
        key = raw[start : start + width]
        shape = known.get(key)
        if shape is None:
            rank, *dims = np.frombuffer(key, fields.dtype).tolist()
            shape = known[key] = tuple(dims[:rank])
        shapes.append(shape)
    sizes = {shape: math.prod(shape) for shape in known.values()}
    return shapes, [sizes[shape] for shape in shapes]


def _stored(records: NDArray[Any], schemes: Sequence[SchemeFacts], base: int) -> list[Stored]:
    """How each is stored: one object for each pair of scheme and dtype."""
    known: dict[tuple[int, int], Stored] = {}
    found = []
    for pair in zip(records["scheme"].tolist(), records["dtype"].tolist(), strict=True):
        stored = known.get(pair)
        if stored is None:
            number, kind = pair
            scheme = schemes[base + number]
            stored = known[pair] = Stored(
                f"{base + number} {kind}",
                dtypes.NAME_OF_ID[kind],
                scheme.coding,
                scheme.method,
                scheme.bits,
                scheme.group_size,
                scheme.label,
            )
        found.append(stored)
    return found


def _optional(column: NDArray[Any]) -> list[float | None]:
    """Numbers, None for the NaN that stands for "not measured"."""
    return [None if value != value else value for value in column.tolist()]
