"""Methods that need no calibration: pure functions from weights to a coded linear, one module each."""

from __future__ import annotations

from typing import Any

import numpy as np

from qformat.converters.methods import hqq, lookup, ls, rows, rtn, sinq, tail
from qformat.converters.methods.base import Array, Coded, Method, Option, join
from qformat.converters.methods.floats import to_float32
from qformat.converters.methods.native import active, get_threads, set_threads
from qformat.errors import RecipeError

_ROWS = (
    rtn.METHOD, ls.METHOD, rows.EETQ, rows.INT8, lookup.NF4, lookup.FP4, hqq.METHOD, sinq.METHOD, tail.METHOD,
)  # fmt: skip
METHODS: dict[str, Method] = {method.name: method for method in _ROWS}

__all__ = [
    "METHODS",
    "Coded",
    "Method",
    "Option",
    "active",
    "get_threads",
    "join",
    "quantize",
    "set_threads",
    "to_float32",
]


def quantize(name: str, weight: Array, **options: Any) -> Coded:
    """Code a whole matrix (out_features, in_features) of any float type with the method called `name`.

    Raises:
        RecipeError: an unknown method or option.
        SourceError: a weight that is not finite.
    """
    if name not in METHODS:
        raise RecipeError("unknown method", field="method", expected=", ".join(METHODS), found=name)
    method = METHODS[name]
    return method.quantize(to_float32(np.asarray(weight)), method.resolve(options))
