"""Codings in the plain layout whose weights are decoded, a piece at a time, before they are multiplied."""

from __future__ import annotations

from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat import codings
from qformat.codings.grammar import Additive, Affine, Coding, Dense, Lattice, Lookup, Split, Trellis
from qformat.codings.parts import Arrays, Read, within
from qformat.codings.trellis import SIDE
from qformat.kernels import _native, lattice, plain, trellis

Strips = _native.Strips


def view(coding: Coding, shape: tuple[int, int], arrays: Arrays, read: Read, rows: range) -> Strips | None:
    """The native view of `rows`, which are not empty, of arrays that have been checked.

    Codes are read in place; what is small beside them is copied. None for what the native kernels do not decode, and
    for rows that start within what is decoded together.
    """
    if isinstance(coding, Lattice):
        return lattice.view(coding, shape, arrays, read, rows)
    if isinstance(coding, Trellis):
        return trellis.view(coding, shape, arrays, read, rows)
    if isinstance(coding, Split):
        return _split(coding, shape, arrays, read, rows)
    if isinstance(coding, Affine | Lookup | Additive | Dense):
        return plain.view(coding, shape, arrays, read, rows)
    return None


def _split(coding: Split, shape: tuple[int, int], arrays: Arrays, read: Read, rows: range) -> Strips | None:
    """The views of all parts beside each other; None if one has none."""
    parts = []
    for number, (part, width) in enumerate(zip(coding.parts, coding.columns, strict=True)):
        name = f"parts.{number}"

        def its(role: str, start: int, stop: int, name: str = name) -> NDArray[np.uint8]:
            return read(codings.join(name, role), start, stop)

        with within(name):
            native = view(part, (shape[0], width), codings.child_arrays(arrays, name), its, rows)
        if native is None:
            return None
        parts.append(native)
    return _native.split(parts)


def _height(coding: Coding) -> int:
    """Rows that are decoded together."""
    if isinstance(coding, Split):
        return lcm(*(_height(part) for part in coding.parts))
    if isinstance(coding, Additive):
        return coding.out_group
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
