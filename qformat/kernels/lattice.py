"""Lattices in the form that the native kernels take: points as bytes that number their few levels."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qformat.codings import lattice
from qformat.codings.grammar import Lattice
from qformat.codings.parts import Arrays, Read, whole
from qformat.kernels import _native
from qformat.kernels.normal import are_normal

Words = NDArray[np.uint64]

# Levels of a lattice: as many as a register looks up.
_LEVELS = 16


class _Points(NamedTuple):
    """The points of a lattice: `levels` are their numbers, a word has the eight bytes of a point.

    With codes of 8 bits `points` (256,) are the numbers of the levels. With codes of 16 bits these are `signs[:, 1]`
    plus `points[:, 0]` minus `points[:, 1]`, by the lower and the upper byte of the code, where `signs[:, 0]` is all
    ones in the bytes for which the two of `points` change places.
    """

    levels: NDArray[np.float32]
    points: Words
    signs: Words | None


@cache
def _points(name: str) -> _Points:
    values = lattice.values(name)
    if lattice.TABLE[name].bits == 8:
        levels, numbers = np.unique(values, return_inverse=True)  # zeros of either sign are one level
        return _Points(levels, _words(numbers.reshape(values.shape)), None)
    # e8p, in steps of a half from −11/4 on: an odd number of halves with its sign, and 5 or 6 for the shift
    levels = (np.arange(-11, 12, 2) / 4).astype(np.float32)
    numbers = np.rint(2 * values + 5.5).astype(np.int8).reshape(256, 256, lattice.WIDTH)
    middle = 5 + numbers[0, :, :1] % 2
    halves = numbers[:, 0] - middle[0]  # without signs, but for that which makes the sum even
    negative = (numbers[0] - middle) * halves[0] < 0
    points = np.stack([_words(np.maximum(halves, 0)), _words(np.maximum(-halves, 0))], axis=1)
    signs = np.stack([_words(np.where(negative, 255, 0)), _words(np.broadcast_to(middle, negative.shape))], axis=1)
    return _Points(levels, points, signs)


def _words(numbers: NDArray[np.integer]) -> Words:
    """Numbers (points, 8) below 256 as a word for each point, whose first byte is the first number."""
    return np.ascontiguousarray(numbers, dtype=np.uint8).view(np.uint64)[:, 0]


def view(
    coding: Lattice,
    shape: tuple[int, int],
    arrays: Arrays,
    read: Read,
    rows: range,
) -> _native.Strips:
    """The native view of `rows`."""
    its = [_points(name) for name in coding.lattices]
    factors = np.array(whole(arrays["factors"]), np.float32)
    levels = np.zeros((len(its), _LEVELS), np.float32)
    codes = []
    for number, (name, points, factor) in enumerate(zip(coding.lattices, its, factors, strict=True)):
        with np.errstate(over="ignore"):  # the spec says what then comes
            levels[number, : len(points.levels)] = factor * points.levels + np.float32(0)  # the sum begins with a 0
        row = shape[1] // lattice.WIDTH * lattice.TABLE[name].bits // 8
        codes.append(read(f"codes.{number}", rows.start * row, rows.stop * row))
    return _native.lattice(
        rows=len(rows),
        inputs=shape[1],
        codes=codes,
        points=[points.points for points in its],
        signs=[points.signs for points in its],
        levels=levels,
        normal=are_normal(levels),
    )
