"""An overview as JSON for programs: ASCII only, so that no file can reach a terminal, and written in pieces."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from qformat.report.overview import Overview, Row

BATCH = 1000  # tensors to a piece

_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False)


def tensor(row: Row) -> dict[str, Any]:
    """One tensor as an object; an alias has the numbers of its target."""
    weights = math.prod(row.shape)
    return {
        "name": row.name,
        "shape": list(row.shape),
        "dtype": row.stored.dtype,
        "coding": row.stored.coding,
        "method": row.stored.method,
        "bits": row.stored.bits,
        "group_size": row.stored.group_size,
        "bits_per_weight": 8 * row.nbytes / weights if weights else None,
        "nbytes": row.nbytes,
        "error": _plain(row.error),
        "max_error": _plain(row.max_error),
        "alias_of": row.target,
        "stored_as": row.stored_as,
    }


def head(view: Overview) -> dict[str, Any]:
    """Everything but the tensors."""
    return {
        "format": view.format,
        "version": view.version,
        "digest": view.digest,
        "content_digest": view.content_digest,
        "total_bytes": view.total_bytes,
        "parameters": view.weights,
        "bits_per_weight": view.bits_per_weight,
        "metadata": dict(view.metadata),
        "attachments": [{"name": each.name, "nbytes": each.nbytes} for each in view.attachments],
        "files": list(view.files),
    }


def overview(view: Overview) -> dict[str, Any]:
    """The whole overview as an object."""
    return {**head(view), "tensors": [tensor(row) for row in view.rows]}


def dumps(value: object) -> str:
    """JSON of printable ASCII and newlines only.

    >>> dumps({"a": "\\x7f\\x1b\\u202e"})
    '{"a": "\\\\u007f\\\\u001b\\\\u202e"}'
    """
    # json leaves DEL as it is; it can stand only inside a string
    return _ENCODER.encode(_plain(value)).replace("\x7f", "\\u007f")


def pieces(view: Overview) -> Iterator[str]:
    """The text of `overview(view)`, a piece at a time, each tensor on a line of its own."""
    yield dumps(head(view))[:-1] + ', "tensors": ['
    separator = "\n"
    for start in range(0, len(view.rows), BATCH):
        batch = ",\n".join([_line(tensor(row)) for row in view.rows[start : start + BATCH]])
        yield separator + batch.replace("\x7f", "\\u007f")
        separator = ",\n"
    yield "\n]}\n"


def _line(value: dict[str, Any]) -> str:
    """A tensor's object: msgspec is ten times as fast as json, but leaves what is not ASCII as it is."""
    text = msgspec.json.encode(value).decode()
    return text if text.isascii() else _ENCODER.encode(value)


def _plain(value: Any) -> Any:
    """`value` with what JSON lacks (NaN, infinities, bytes and other types) spelled as text."""
    if isinstance(value, float):
        return value if -float("inf") < value < float("inf") else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (str, int)) else str(value)
