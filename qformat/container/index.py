"""An index, validated as columns before a byte of it is believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat.container import columns, strictjson
from qformat.container.columns import ALIAS, ATTACHMENT, TENSOR, Names
from qformat.container.records import (
    ALIGNMENT,
    CHUNK_ROW,
    INDEX,
    INDEX_MAGIC,
    PREAMBLE,
    RECORD,
    TRAILER,
    Limits,
    sections,
)
from qformat.errors import InvalidFileError, LimitError, UnsupportedError

__all__ = ["ALIAS", "ATTACHMENT", "FEATURES", "TENSOR", "Index", "Names", "parse"]

# Container features that this version knows; an unknown required one refuses the file.
FEATURES = frozenset({"shards"})

_DOCUMENT = {"required": list, "optional": list, "schemes": list, "metadata": dict}


@dataclass(frozen=True)
class Index:
    """A valid index: its tables as structured arrays, its document as parsed JSON."""

    minor: int
    records: NDArray[Any]
    chunks: NDArray[Any]
    names: Names
    document: dict[str, Any]
    previous: tuple[int, int, bytes]
    end: int  # where the extents end


def parse(raw: NDArray[np.uint8], offset: int, limits: Limits) -> Index:
    """The index in `raw`, which lies at byte `offset` of its file.

    Raises:
        InvalidFileError, LimitError: a number, a name or the document breaks the format; `field` names it.
        UnsupportedError: it needs a container feature that this version does not have.
    """
    if raw.size < INDEX.itemsize:
        raise InvalidFileError("index too short", field="index", expected=INDEX.itemsize, found=raw.size)
    head = raw[: INDEX.itemsize].view(INDEX)[0]
    if head["magic"].tobytes() != INDEX_MAGIC:
        raise InvalidFileError("not an index", field="index.magic", offset=offset, found=head["magic"].tobytes())
    if head["reserved_flags"] or any(head["reserved"].tobytes()):
        raise InvalidFileError("reserved bytes are not zero", field="index.reserved", offset=offset)
    counts = [int(head[name]) for name in ("records", "chunks", "names_length", "json_length")]
    for name, count, most in zip(
        ("records", "chunks", "names_length", "json_length"),
        counts,
        (limits.records, limits.index // CHUNK_ROW.itemsize, limits.records * limits.name, limits.json),
        strict=True,
    ):
        if count > most:
            raise LimitError("too many", field=f"index.{name}", expected=f"at most {most}", found=count)
    starts = sections(*counts)
    if starts[-1] != raw.size:
        raise InvalidFileError(
            "tables do not fill the index", field="index.length", expected=starts[-1], found=raw.size
        )
    ends = [
        starts[0] + counts[0] * RECORD.itemsize,
        starts[1] + counts[1] * CHUNK_ROW.itemsize,
        starts[2] + counts[2],
        starts[3] + counts[3],
    ]
    for name, end, after in zip(("records", "chunks", "names", "json"), ends, starts[1:], strict=True):
        if raw[end:after].any():
            raise InvalidFileError("padding is not zero", field=f"index.{name}", offset=offset + end)
    records = raw[starts[0] : ends[0]].view(RECORD)
    chunks = raw[starts[1] : ends[1]].view(CHUNK_ROW)
    document = _document(raw[starts[3] : ends[3]].tobytes(), limits)
    previous = (int(head["previous_offset"]), int(head["previous_length"]), head["previous_digest"].tobytes())
    extents_end = int(head["extents_end"])
    _chain(previous, offset, extents_end)
    names = columns.check(
        records, chunks, raw[starts[2] : ends[2]].tobytes(), len(document["schemes"]), extents_end, limits
    )
    return Index(int(head["minor"]), records, chunks, names, document, previous, extents_end)


def _document(text: bytes, limits: Limits) -> dict[str, Any]:
    document = strictjson.loads(text, limits)
    if not isinstance(document, dict):
        raise InvalidFileError("not an object", field="json", found=type(document).__name__)
    for key, kind in _DOCUMENT.items():
        if not isinstance(document.get(key), kind):
            raise InvalidFileError(f"not {kind.__name__}", field=f"json.{key}", found=type(document.get(key)).__name__)
    for key in ("required", "optional"):
        if not all(isinstance(feature, str) for feature in document[key]):
            raise InvalidFileError("features are names", field=f"json.{key}")
    unknown = sorted(set(document["required"]) - FEATURES)
    if unknown:
        raise UnsupportedError(
            "the file needs a feature that this version lacks", field="json.required", found=unknown[0]
        )
    if not all(isinstance(scheme, dict) for scheme in document["schemes"]):
        raise InvalidFileError("a scheme is an object", field="json.schemes")
    return document


def _chain(previous: tuple[int, int, bytes], offset: int, extents_end: int) -> None:
    """The extents end before this index, or before the first of the chain of those that it supersedes."""
    start, length, digest = previous
    if extents_end % ALIGNMENT or extents_end < PREAMBLE.itemsize:
        raise InvalidFileError("out of range", field="index.extents_end", found=extents_end)
    if length == 0:
        if start or any(digest):
            raise InvalidFileError(
                "no previous index, but its fields are set", field="index.previous_offset", found=start
            )
        if extents_end != offset:
            raise InvalidFileError(
                "the index does not follow the extents", field="index.extents_end", expected=offset, found=extents_end
            )
    elif start % ALIGNMENT or not extents_end <= start < offset or length != offset - start - TRAILER.itemsize:
        raise InvalidFileError(
            "the previous index does not end where this one begins", field="index.previous_offset", found=start
        )
