"""`lattice`: eight weights are a point of a fixed lattice, or the sum of points of several (QuIP#, arXiv 2402.04396).

    vector(o, i) = Σ_m factor_m · point_m[code_m(o, i)]

In float32: the factor multiplies first, then points are added in the order of the lattices. Each has 2^bits points,
always, so that a code cannot be out of range.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qformat.codings.bits import code_dtype
from qformat.codings.grammar import Lattice
from qformat.codings.parts import Arrays, Role, Window, cut, whole
from qformat.codings.protocol import Child, Spread
from qformat.errors import InvalidFileError, UnsupportedError

Shape = tuple[int, int]

WIDTH = 8
LATTICES = 4

# -- the lattices ------------------------------------------------------------------------------------------------------

# Of the 56 vectors of five 3/2 and three 1/2, those that fill the 227 shorter ones up to 256: where they have 3/2, the
# first component in the highest bit.
_LONG = bytes.fromhex("8f 4f 2f 1f ec ea e6 e9 e5 e3 dc da d6 d9 d5 d3 bc ba b6 b9 b5 73 7c 7a 76 79 75 37 ce")

# The bit of a code's low byte that is the sign of each component.
_SIGN = np.array([0, 4, 1, 5, 2, 6, 3, 7])


def _e8p() -> NDArray[np.float64]:
    """Vectors of odd halves with an even sum, by magnitudes and signs, shifted by a quarter up or down: E8 + 1/4."""
    every = np.array([*product((0.5, 1.5, 2.5), repeat=WIDTH)])
    short, long = every[(every**2).sum(axis=1) <= 10], np.unpackbits(np.frombuffer(_LONG, np.uint8)).reshape(-1, WIDTH)
    code = np.arange(2**16)
    magnitude, signs = np.concatenate([short, 0.5 + long])[code >> 8], code & 255
    down = np.bitwise_xor.reduce(signs[:, None] >> np.arange(8), axis=1) & 1
    negative = (signs ^ down)[:, None] >> _SIGN & 1
    negative[:, 7] ^= magnitude.sum(axis=1).astype(int) & 1
    return np.asarray(np.where(negative, -magnitude, magnitude) + np.where(down, -0.25, 0.25)[:, None])


def _e81b() -> NDArray[np.float64]:
    """The points of E8 of norm at most 2, integers before halves, then 15 of the 16 that are 2 along an axis."""
    every = np.array([*product((-1, 0, 1), repeat=WIDTH), *product((-0.5, 0.5), repeat=WIDTH)])
    near = every[(every.sum(axis=1) % 2 == 0) & ((every**2).sum(axis=1) <= 2)]
    return np.concatenate([near, 2 * np.eye(WIDTH), -2 * np.eye(WIDTH)[:7]])


class Points(NamedTuple):
    """Points of a lattice by name: 2^bits vectors of WIDTH numbers, made on demand."""

    bits: int
    make: Callable[[], NDArray[np.float64]]


TABLE = {"e8p": Points(16, _e8p), "e81b": Points(8, _e81b)}


@cache
def values(name: str) -> NDArray[np.float32]:
    """The points of a lattice by code: (2^bits, WIDTH)."""
    points = TABLE[name].make().astype(np.float32)
    points.setflags(write=False)
    return points


# -- the coding --------------------------------------------------------------------------------------------------------


def validate(coding: Lattice, field: str) -> None:
    """1–4 lattices that this version knows."""
    if not 1 <= len(coding.lattices) <= LATTICES:
        where, found = f"{field}.lattices", len(coding.lattices)
        raise InvalidFileError("number of lattices out of range", field=where, expected=f"1 to {LATTICES}", found=found)
    for number, name in enumerate(coding.lattices):
        if name not in TABLE:
            where = f"{field}.lattices.{number}"
            raise UnsupportedError("unknown lattice", field=where, expected=", ".join(TABLE), found=name)


def children(coding: Lattice, shape: Shape) -> dict[str, Child]:
    return {}


def roles(coding: Lattice, shape: Shape) -> dict[str, Role]:
    rows, columns = shape
    if columns % WIDTH:
        raise InvalidFileError("vectors do not fill the rows", field="lattices", expected=f"{WIDTH} · n", found=columns)
    found = {"factors": Role("float32", (len(coding.lattices),))}
    for number, name in enumerate(coding.lattices):
        bits = TABLE[name].bits
        found[f"codes.{number}"] = Role(code_dtype(bits), (rows, columns // WIDTH), bits)
    return found


def decode(coding: Lattice, shape: Shape, arrays: Arrays, window: Window, spread: Spread) -> NDArray[np.float32]:
    """`Σ_m factor_m · point_m[code_m]` of a rectangle."""
    left = window.left // WIDTH
    vectors = Window(window.top, window.bottom, left, -(-window.right // WIDTH))
    total = np.zeros((*vectors.shape, WIDTH), np.float32)
    for number, (name, factor) in enumerate(zip(coding.lattices, whole(arrays["factors"]), strict=True)):
        total += factor * values(name)[cut(arrays[f"codes.{number}"], vectors)]
    weight = total.reshape(len(total), -1)
    return weight[:, window.left - left * WIDTH : window.right - left * WIDTH]


def check(coding: Lattice, shape: Shape, arrays: Arrays) -> None:
    """Factors are finite."""
    if not np.isfinite(whole(arrays["factors"])).all():
        raise InvalidFileError("factors are not finite", field="factors")
