"""An index, validated as columns before a byte of it is believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qformat.container import extents, strictjson
from qformat.container.columns import ALIAS, ATTACHMENT, TENSOR, Names, Records
from qformat.container.forward import Forward, Readable
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
from qformat.container.table import Table
from qformat.errors import IntegrityError, InvalidFileError, LimitError, UnsupportedError

__all__ = ["ALIAS", "ATTACHMENT", "FEATURES", "TENSOR", "Index", "read"]

# Container features that this version knows; an unknown required one refuses the file.
FEATURES = frozenset({"shards"})

_COUNTS = ("records", "chunks", "names_length", "json_length")
_DOCUMENT = {"required": list, "optional": list, "schemes": list, "metadata": dict}


@dataclass(frozen=True)
class Index:
    """A valid index: its tables, its document as parsed JSON.

    `order` has the numbers of all records in execution order; those below `tensors` are tensors and aliases.
    """

    minor: int
    records: Table
    chunks: NDArray[Any]
    names: Names
    tensors: int
    order: NDArray[np.int32]
    document: dict[str, Any]
    previous: tuple[int, int, bytes]
    end: int  # where the extents end


def read(source: Readable, offset: int, length: int, expected: bytes, limits: Limits) -> Index:
    """The index of `length` bytes at byte `offset` of `source`, whose digest is `expected`.

    It is hashed while it is parsed, which trusts nothing; damage is what is said first.

    Raises:
        IntegrityError: it has another digest.
        InvalidFileError, LimitError: a number, a name or the document breaks the format; `field` names it.
        UnsupportedError: it needs a container feature that this version does not have.
        ChangedError: the file is cut short, or written to, meanwhile.
    """
    forward = Forward(source, offset, length)

    def check_digest() -> None:
        if forward.digest() != expected:
            raise IntegrityError("the index is damaged", field="trailer.index_digest", offset=offset)

    try:
        tables = _tables(forward, offset, length, limits)
        check_digest()
    except (InvalidFileError, UnsupportedError):
        check_digest()
        raise
    finally:
        forward.close()
    return _joined(tables, source, offset, forward.sums)


class _Tables(NamedTuple):
    head: Any
    records: Records
    chunks: NDArray[Any]
    pool: NDArray[np.uint8]
    document: dict[str, Any]


def _tables(forward: Forward, offset: int, length: int, limits: Limits) -> _Tables:
    """Everything once from the beginning to the end; each record and the document are checked on their own."""
    if length < INDEX.itemsize:
        raise InvalidFileError("index too short", field="index", expected=INDEX.itemsize, found=length)
    head = forward.take(INDEX.itemsize).view(INDEX)[0]
    if head["magic"].tobytes() != INDEX_MAGIC:
        raise InvalidFileError("not an index", field="index.magic", offset=offset, found=head["magic"].tobytes())
    if head["reserved_flags"] or any(head["reserved"].tobytes()):
        raise InvalidFileError("reserved bytes are not zero", field="index.reserved", offset=offset)
    counts = [int(head[name]) for name in _COUNTS]
    most = (limits.records, limits.index // CHUNK_ROW.itemsize, limits.records * limits.name, limits.json)
    for name, count, limit in zip(_COUNTS, counts, most, strict=True):
        if count > limit:
            raise LimitError("too many", field=f"index.{name}", expected=f"at most {limit}", found=count)
    starts = sections(*counts)
    if starts[-1] != length:
        raise InvalidFileError("tables do not fill the index", field="index.length", expected=starts[-1], found=length)

    def padding(name: str, after: int) -> None:
        at = forward.at
        if forward.take(offset + after - at).any():
            raise InvalidFileError("padding is not zero", field=f"index.{name}", offset=at)

    records, first = Records(counts[0], limits), 0
    for block in forward.blocks(counts[0] * RECORD.itemsize):
        rows = block.view(RECORD)
        records.check(first, rows)
        first += len(rows)
    padding("records", starts[1])
    chunks = forward.take(counts[1] * CHUNK_ROW.itemsize).view(CHUNK_ROW)
    padding("chunks", starts[2])
    pool = forward.take(counts[2])
    padding("names", starts[3])
    document = _document(forward.take(counts[3]).tobytes(), limits)
    padding("json", starts[4])
    return _Tables(head, records, chunks, pool, document)


def _joined(tables: _Tables, source: Readable, offset: int, sums: Sequence[bytes]) -> Index:
    """What the tables say together."""
    head, records, chunks, pool, document = tables
    end = int(head["extents_end"])
    previous = (int(head["previous_offset"]), int(head["previous_length"]), head["previous_digest"].tobytes())
    _chain(previous, offset, end)
    names = records.finish(pool, len(document["schemes"]))
    table = Table(source, offset + INDEX.itemsize, len(records.rows), RECORD, sums)
    extents.check_aliases(records.aliases, table)
    extents.check(records, chunks, end)
    tensors = len(names) - records.attached
    return Index(int(head["minor"]), table, chunks, names, tensors, records.rows, document, previous, end)


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
