"""Codings in the plain layout whose weights are decoded, a piece at a time, before they are multiplied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat.codings.grammar import Coding, Lattice, Trellis
from qformat.codings.parts import Arrays
from qformat.codings.trellis import SIDE
from qformat.kernels import _native, lattice, trellis

Strips = _native.Strips

# Bytes [start, stop) of a part of an extent, which is called as its layout does: a role, or `panels`.
Read = Callable[[str, int, int], NDArray[np.uint8]]


def view(coding: Coding, shape: tuple[int, int], arrays: Arrays, read: Read, rows: range) -> Strips | None:
    """The native view of `rows`, which are not empty, of arrays that have been checked.

    Codes are read in place; what is small beside them is copied. None for what the native kernels do not decode, and
    for rows that start within what is decoded together.
    """
    if isinstance(coding, Lattice):
        return lattice.view(coding, shape, arrays, read, rows)
    if isinstance(coding, Trellis):
        return trellis.view(coding, shape, arrays, read, rows)
    return None


def _height(coding: Coding) -> int:
    """Rows that are decoded together."""
    return SIDE if isinstance(coding, Trellis) else 1


def decode_rows(
    coding: Coding,
    shape: tuple[int, int],
    arrays: Arrays,
    read: Read,
    rows: range,
    kind: int,
    out: NDArray[Any],
    kernel: str,
) -> bool:
    """`operand.decode_rows` for these codings; `kind` is the native number of the dtype of `out`."""
    top = rows.start - rows.start % _height(coding)
    native = view(coding, shape, arrays, read, range(top, rows.stop))
    if native is None:
        return False
    _native.decode_strips(kernel, native, rows.start - top, rows.stop - top, kind, out.reshape(-1).view(np.uint8))
    return True
