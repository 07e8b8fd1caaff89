"""The overview of a .qf file, from the tables of its index: no tensor is touched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat import container, dtypes
from qformat.container import Container
from qformat.container.records import NONE
from qformat.report.overview import Attachment, Overview, Row
from qformat.report.schemes import facts


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
        Attachment(part.names[row].decode(), int(part.index.records["length"][row]))
        for part in opened.parts
        for row in range(part.tensors, len(part.names))
    ]


def rows(opened: Container) -> Sequence[Row]:
    """One row for each tensor and alias, in the file's order; made by columns, since there may be many."""
    schemes = [facts(scheme) for scheme in opened.schemes]
    made: list[Row] = []
    for part, (records, names, base) in zip(opened.parts, opened.columns(), strict=True):
        ranks = records["rank"]
        # beyond the rank the dimensions are zero; as ones they leave the product alone
        inside = np.arange(records["shape"].shape[1]) < ranks[:, None]
        weights = np.where(inside, records["shape"], 1).prod(axis=1)
        weights[records["target"] != NONE] = 0
        numbers, kinds = records["scheme"].tolist(), records["dtype"].tolist()
        mine = schemes[base:]
        made += map(
            Row._make,
            zip(
                names,
                [tuple(dims[:rank]) for dims, rank in zip(records["shape"].tolist(), ranks.tolist(), strict=True)],
                weights.tolist(),
                [dtypes.NAME_OF_ID[kind] for kind in kinds],
                [mine[number].coding for number in numbers],
                [mine[number].method for number in numbers],
                [mine[number].bits for number in numbers],
                [mine[number].group_size for number in numbers],
                records["length"].tolist(),
                _optional(records["error"]),
                _optional(records["max_error"]),
                [f"{base + number} {kind}" for number, kind in zip(numbers, kinds, strict=True)],
                [mine[number].label for number in numbers],
                [None if row == NONE else part.names[row].decode() for row in records["target"].tolist()],
                strict=True,
            ),
        )
    return made


def _optional(column: NDArray[Any]) -> list[float | None]:
    """Numbers, None for the NaN that stands for "not measured"."""
    return [None if value != value else value for value in column.tolist()]
