"""`dense`: the numbers themselves.

weight = value
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat.codings.grammar import Dense
from qformat.codings.parts import Arrays, Role, Window, cut
from qformat.codings.protocol import Child, Spread
from qformat.dtypes import TABLE as DTYPES
from qformat.errors import UnsupportedError

Shape = tuple[int, int]


def validate(coding: Dense, field: str) -> None:
    """The dtype must be one that we know."""
    if coding.dtype not in DTYPES:
        raise UnsupportedError("unknown dtype", field=f"{field}.dtype", found=coding.dtype)


def children(coding: Dense, shape: Shape) -> dict[str, Child]:
    return {}


def roles(coding: Dense, shape: Shape) -> dict[str, Role]:
    return {"values": Role(coding.dtype, shape)}


def decode(coding: Dense, shape: Shape, arrays: Arrays, window: Window, spread: Spread) -> NDArray[np.float32]:
    """The values of a rectangle, as float32."""
    values: NDArray[Any] = cut(arrays["values"], window)
    if coding.dtype == "complex64":
        raise UnsupportedError("complex numbers have no float32", field="dtype", found=coding.dtype)
    with np.errstate(over="ignore"):  # float64 beyond float32 is an infinity, as any cast would make it
        return values.astype(np.float32)


def check(coding: Dense, shape: Shape, arrays: Arrays) -> None:
    """Any value is allowed in a tensor; scales are checked by the coding that uses them."""
