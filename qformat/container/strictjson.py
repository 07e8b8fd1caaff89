"""JSON as the format allows it: RFC 8259 without duplicate keys, within limits, numbers that every reader agrees on.

The text is measured before anything is parsed (length, depth, number of values), so a hostile document costs no more
memory than an honest one; msgspec then parses it, and a walk over the result finds what a parser lets through.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import numpy as np

from qformat.container.constants import LIMITS, Limits
from qformat.errors import InvalidFileError, LimitError

MAX_INTEGER = 2**53 - 1

# One string literal; an unterminated one runs to the end, so that scanning stays linear.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKETS = np.zeros(256, np.int8)
_BRACKETS[[ord("["), ord("{")]] = 1
_BRACKETS[[ord("]"), ord("}")]] = -1


def canonical(value: Any) -> bytes:
    """The one text that this library writes for `value`: sorted keys, no spaces, UTF-8."""
    return msgspec.json.encode(value, order="sorted")


def loads(data: bytes, *, limits: Limits = LIMITS, file: object = None, base: int = 0) -> Any:
    """The value of a strict JSON text that stands at offset `base` of `file`; InvalidFileError or LimitError."""
    if len(data) > limits.json_bytes:
        raise LimitError("JSON is too long", file=file, field="json", offset=base, expected=f"at most {limits.json_bytes} bytes", found=len(data))
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFileError("JSON is not UTF-8", file=file, field="json", offset=base + error.start) from error
    colons = _measure(data, limits, file, base)
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        at = re.search(r"byte (\d+)", str(error))
        where = base + (int(at[1]) if at else 0)
        raise InvalidFileError(f"not JSON: {error}", file=file, field="json", offset=where) from error
    members = _walk(value, limits, file, base)
    if members != colons:
        raise InvalidFileError("duplicate key", file=file, field="json", offset=base, found=_duplicate(data))
    return value


def _measure(data: bytes, limits: Limits, file: object, base: int) -> int:
    """Check depth and number of values outside strings; return the number of colons, one for every member."""
    skeleton = _STRING.sub(b"", data)
    levels = np.cumsum(_BRACKETS[np.frombuffer(skeleton, np.uint8)], dtype=np.int64)
    depth = int(levels.max(initial=0))
    if depth > limits.json_depth:
        raise LimitError("JSON is nested too deeply", file=file, field="json", offset=base, expected=f"depth {limits.json_depth}", found=depth)
    values = sum(skeleton.count(mark) for mark in (b",", b"[", b"{"))
    if values > limits.json_values:
        raise LimitError("JSON holds too many values", file=file, field="json", offset=base, expected=f"at most {limits.json_values}", found=values)
    return skeleton.count(b":")


def _walk(value: Any, limits: Limits, file: object, base: int) -> int:
    """Check every number and string; return the number of object members."""
    members, pending = 0, [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            members += len(item)
            pending.extend(item.values())
            pending.extend(item)
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, str):
            if len(item) > limits.json_string:
                raise LimitError("string is too long", file=file, field="json", offset=base, expected=f"at most {limits.json_string} characters", found=len(item))
        elif isinstance(item, int) and abs(item) > MAX_INTEGER:
            shown = item if item.bit_length() < 256 else f"an integer of {item.bit_length()} bits"
            raise LimitError("integer is not exact in every reader", file=file, field="json", offset=base, expected="at most 2^53 - 1", found=shown)
    return members


def _duplicate(data: bytes) -> str:
    """Name the first key that stands twice in one object; only called once a duplicate is known to exist."""
    import json

    class Found(Exception):
        pass

    def pairs(members: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in members:
            if key in seen:
                raise Found(key)
            seen.add(key)

    try:
        json.loads(data, object_pairs_hook=pairs)
    except Found as found:
        return str(found)
    return "a key"
