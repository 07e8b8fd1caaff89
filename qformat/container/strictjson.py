"""The JSON of an index: a small strict subset, the same for every reader.

UTF-8 without a mark, no duplicate keys, no NaN or infinities, limited depth and size. Parsers disagree on all of
these; a scan here decides before msgspec builds anything.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import numpy as np

from qformat.container.records import Limits
from qformat.errors import InvalidFileError, LimitError


def dumps(value: Any) -> bytes:
    """Canonical text: keys sorted, no spaces, UTF-8; ValueError for what has no JSON form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


_BLOCK = 1 << 20
_STEP = np.zeros(256, np.int8)
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1


def _depth(text: bytes, limit: int) -> None:
    # Strings are cut out first: after removing escapes, quotes come in pairs.
    outside = b"".join(text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    level = 0
    for start in range(0, len(outside), _BLOCK):
        levels = level + np.cumsum(_STEP[np.frombuffer(outside[start : start + _BLOCK], np.uint8)], dtype=np.int32)
        if int(levels.max()) > limit:
            raise LimitError("JSON nests too deep", field="json", expected=f"at most {limit} levels")
        level = int(levels[-1])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidFileError("duplicate key in JSON", field="json", found=key)
        found[key] = value
    return found


def _refuse(text: str) -> NoReturn:
    raise InvalidFileError("not a JSON number", field="json", found=text)


def _integer(text: str) -> int:
    if len(text) > 20:
        raise LimitError("integer too large in JSON", field="json", found=text[:24])
    value = int(text)
    if abs(value) >= 1 << 64:
        raise LimitError("integer too large in JSON", field="json", found=text)
    return value


def loads(text: bytes, limits: Limits) -> Any:
    """The value of strict JSON text.

    Raises:
        InvalidFileError, LimitError: it is not in the subset.
    """
    if len(text) > limits.json:
        raise LimitError("JSON too long", field="json", expected=f"at most {limits.json}", found=len(text))
    if text[:3] == b"\xef\xbb\xbf" or b"\x00" in text:
        raise InvalidFileError("JSON is not plain UTF-8", field="json")
    _depth(text, limits.json_depth)
    try:
        decoded = text.decode("utf-8")
        value = json.loads(decoded, object_pairs_hook=_unique, parse_constant=_refuse, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise InvalidFileError("JSON is not UTF-8", field="json", offset=error.start) from error
    except json.JSONDecodeError as error:
        raise InvalidFileError(f"not JSON: {error.msg}", field="json", offset=error.pos) from error
    except (RecursionError, ValueError) as error:
        if isinstance(error, InvalidFileError):
            raise
        raise InvalidFileError("not JSON", field="json") from error
    _check_numbers_and_text(value)
    return value


def _check_numbers_and_text(value: Any) -> None:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo.extend(item.keys())
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
        elif isinstance(item, float) and item - item != 0:
            raise InvalidFileError("a number is beyond float64", field="json")
        elif isinstance(item, str) and not item.isascii() and any("\ud800" <= c <= "\udfff" for c in item):
            raise InvalidFileError("a lone surrogate in a string", field="json")
