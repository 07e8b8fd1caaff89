"""What people and programs see of a model file: overviews, tables, comparisons."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["describe", "dumps"]


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `qformat inspect --json` prints, as an object: format, digest, sizes, metadata and every tensor.

    Takes whatever inspect takes: .qf, safetensors and GGUF files, directories, addresses.
    """
    from qformat.report import as_json, reading

    with reading.read(path) as view:
        return as_json.overview(view)


def dumps(value: object) -> str:
    """JSON text of printable ASCII, safe to show."""
    from qformat.report import as_json

    return as_json.dumps(value)
