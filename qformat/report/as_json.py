"""An overview as JSON for programs: ASCII only, so that no file can reach a terminal, and written in pieces."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from qformat.report.overview import Overview, Row

BATCH = 1000  # tensors to a piece

_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False)
_COMPACT = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))
_quote = json.encoder.encode_basestring_ascii


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
        "error": row.error if row.error is None else _plain(row.error),
        "max_error": row.max_error if row.max_error is None else _plain(row.max_error),
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
    shared: dict[tuple[Any, ...], tuple[str, str]] = {}
    for start in range(0, len(view.rows), BATCH):
        lines = ",\n".join([_line(row, shared) for row in view.rows[start : start + BATCH]])
        yield separator + lines.replace("\x7f", "\\u007f")
        separator = ",\n"
    yield "\n]}\n"


def _line(row: Row, shared: dict[tuple[Any, ...], tuple[str, str]]) -> str:
    """A tensor's object. What many tensors have alike is spelled once, which halves the time of a large file."""
    if row.target is not None:
        return _COMPACT.encode(tensor(row))
    key = row.shape, row.nbytes, id(row.stored)
    around = shared.get(key)
    if around is None:
        whole = _COMPACT.encode({**tensor(row), "name": "", "error": None, "max_error": None})
        before, _, after = whole.removeprefix('{"name":""').partition('"error":null,"max_error":null')
        around = shared[key] = before, after
    before, after = around
    name, error, most = _quote(row.name), _number(row.error), _number(row.max_error)
    return f'{{"name":{name}{before}"error":{error},"max_error":{most}{after}'


def _number(value: float | None) -> str:
    if value is None:
        return "null"
    return repr(value) if math.isfinite(value) else _quote(str(value))


def _plain(value: Any) -> Any:
    """`value` with what JSON lacks (NaN, infinities, bytes and other types) spelled as text."""
    if isinstance(value, float):
        return value if -float("inf") < value < float("inf") else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (str, int)) else str(value)
