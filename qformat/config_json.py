"""JSON that other tools wrote: a model's config.json, and what stands beside it."""

from __future__ import annotations

import json
from typing import Any


def loads(raw: bytes) -> dict[str, Any]:
    """The object in `raw`, UTF-8. Python writes infinities as `Infinity`, and Mamba-2's configurations hold one.

    Raises:
        ValueError: it is not a JSON object, or nests too deep.
    """
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_constant)
    except RecursionError as error:
        raise ValueError("nests too deep") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    return value


def _constant(text: str) -> float:
    if text == "NaN":
        raise ValueError("NaN is not a number")
    return float(text)
