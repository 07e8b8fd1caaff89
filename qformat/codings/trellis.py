"""`trellis`: weights as windows of a bit stream through a fixed function (QTIP, arXiv 2406.11235 §3; EXL3).

    state(i) = (code(i) + 2^w · code(i − 1) + 2^2w · code(i − 2) + …) mod 2^16          weights of step i = f(state(i))

A tile of 16 × 16 weights is a cycle of 256 / vector steps. A step is a code of w = bits · vector bits, for `vector`
weights. A state shares 16 − w bits with the one before it, so that a weight costs `bits` bits but is one of 2^16. The
tiles of the last rows and columns may reach beyond the matrix; what they hold there is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from qformat.codings.bits import code_dtype
from qformat.codings.grammar import Trellis
from qformat.codings.parts import Arrays, Role, Window, cut, whole
from qformat.codings.protocol import Child, Spread
from qformat.dtypes import TABLE as DTYPES
from qformat.errors import InvalidFileError

Shape = tuple[int, int]
Integers = NDArray[np.uint32]
Floats = NDArray[np.float32]

SIDE = 16
STATE_BITS = 16

_STATES = np.arange(2**STATE_BITS, dtype=np.uint32)


# -- functions of a state: uint32 arithmetic modulo 2^32 ---------------------------------------------------------------


def _bytes(x: Integers) -> Integers:
    """The sum of the four bytes of each number."""
    return np.asarray(x.view(np.uint8).reshape(*x.shape, 4).sum(axis=-1, dtype=np.uint32))


def _near_gaussian(x: Integers) -> Floats:
    return (_bytes(x).astype(np.float32) - np.float32(510)) / np.float32(147.800537109375)


def _one_mad(x: Integers) -> Floats:
    return _near_gaussian(x * np.uint32(34038481) + np.uint32(76625530))


def _two_mad(x: Integers) -> Floats:
    x = x * np.uint32(264435761) + np.uint32(1013904223)
    return _near_gaussian(x + (x.astype(np.uint64) * np.uint64(1664525) >> np.uint64(32)).astype(np.uint32))


def _two_halves(x: Integers) -> Floats:
    """The sum of two float16 near one, made of the bits of each half, rounded to float16."""
    halves = ((x & np.uint32(0x8FFF8FFF)) ^ np.uint32(0x3B603B60)).view(np.float16).reshape(-1, 2)
    return (halves[:, 0] + halves[:, 1]).astype(np.float32)


def _mul1(x: Integers) -> Floats:
    """One float16 fused multiply-add: exact in float64, then rounded once."""
    factor, bias = np.array([0x1EEE, 0xC931], np.uint16).view(np.float16).astype(np.float64)
    exact = (_bytes(x * np.uint32(0x83DCD12D)) + 1024) * factor + bias
    return np.asarray(exact.astype(np.float16), np.float32)


COMPUTED: dict[str, Callable[[Integers], Floats]] = {
    "1mad": _one_mad,
    "2mad": _two_mad,
    "3inst": lambda x: _two_halves(x * np.uint32(89226354) + np.uint32(64248484)),
    "mcg": lambda x: _two_halves(x * np.uint32(0xCBAC1FED)),
    "mul1": _mul1,
}

# Functions that read a stored table, and how wide its indices may be.
STORED = {"lut": 16, "quantlut": 16, "quantlut_sym": 15}


@cache
def computed(name: str) -> Floats:
    """What a function without a table gives for every state: (2^16, 1)."""
    return COMPUTED[name](_STATES)[:, None]


def _looked_up(coding: Trellis, table: Floats) -> Floats:
    """What a function with a table (2^table_bits, vector) gives for every state: (2^16, vector)."""
    assert coding.table_bits is not None
    hashed, mask = _STATES * (_STATES + np.uint32(1)), np.uint32(2**coding.table_bits - 1)
    shift = {"quantlut": 16, "quantlut_sym": 15}.get(coding.function)
    indices = _STATES if shift is None else hashed >> np.uint32(shift - coding.table_bits)
    values: Floats = table[indices & mask]
    if coding.function == "quantlut_sym":
        values[hashed & np.uint32(1 << 15) != 0, 0] *= -1
    return values


# -- the order of the weights of a tile: where along the steps lies (row, column) --------------------------------------


def _order(bits: str) -> NDArray[np.intp]:
    """row · 16 + column of each weight along the steps, from the place of each bit of its number, highest first."""
    place = np.arange(SIDE * SIDE)
    weights = {name: 1 << bit for bit, name in enumerate("abcdABCD")}  # column 1, 2, 4, 8, row 1, 2, 4, 8
    order = np.zeros(SIDE * SIDE, np.intp)
    for bit, name in enumerate(reversed(bits)):
        order += (place >> bit & 1) * weights[name]
    return order


ORDERS = {"rows": _order("DCBAdcba"), "qtip": _order("CBAcbdDa"), "exl3": _order("CBAcbDda")}


# -- the coding --------------------------------------------------------------------------------------------------------


def validate(coding: Trellis, field: str) -> None:
    """1–8 bits, vectors of 1 or 2; functions with a table say how many bits index it, the others have one weight."""
    for name, most in {"bits": 8, "vector": 2}.items():
        found = getattr(coding, name)
        if not 1 <= found <= most:
            where = f"{field}.{name}"
            raise InvalidFileError(f"{name} out of range", field=where, expected=f"1 to {most}", found=found)
    where, width = f"{field}.table_bits", coding.table_bits
    if coding.function in STORED:
        if width is None or not 1 <= width <= STORED[coding.function]:
            expected = f"1 to {STORED[coding.function]}"
            raise InvalidFileError("table_bits out of range", field=where, expected=expected, found=width)
        if coding.table.dtype not in DTYPES or DTYPES[coding.table.dtype].kind != "float":
            raise InvalidFileError("the table must hold floats", field=f"{field}.table", found=coding.table.dtype)
    elif width is not None:
        raise InvalidFileError(f"{coding.function} has no table", field=where, found=width)
    elif coding.vector != 1:
        found = coding.vector
        raise InvalidFileError(f"{coding.function} gives one weight", field=f"{field}.vector", expected=1, found=found)


def children(coding: Trellis, shape: Shape) -> dict[str, Child]:
    return {}


def roles(coding: Trellis, shape: Shape) -> dict[str, Role]:
    tiles, steps, width = (-(-shape[0] // SIDE), -(-shape[1] // SIDE)), SIDE**2 // coding.vector, coding.bits
    codes = Role(code_dtype(width * coding.vector), (*tiles, steps), width * coding.vector)
    if coding.table_bits is None:
        return {"codes": codes}
    return {"table": Role(coding.table.dtype, (2**coding.table_bits, coding.vector)), "codes": codes}


def states(codes: NDArray[np.integer], width: int) -> Integers:
    """The 16 bits that end with each code (…, steps): its own lowest, before them those of the codes before it."""
    window = np.zeros(codes.shape, np.uint32)
    for back in range(-(-STATE_BITS // width)):
        window |= np.roll(codes, back, axis=-1).astype(np.uint32) << np.uint32(back * width)
    return window & np.uint32(2**STATE_BITS - 1)


def decode(coding: Trellis, shape: Shape, arrays: Arrays, window: Window, spread: Spread) -> Floats:
    """`f(state)` of a rectangle, tile by tile."""
    top, left = window.top // SIDE, window.left // SIDE
    codes = cut(arrays["codes"], Window(top, -(-window.bottom // SIDE), left, -(-window.right // SIDE)))
    stored = coding.function in STORED
    values = _looked_up(coding, whole(arrays["table"]).astype(np.float32)) if stored else computed(coding.function)
    down, across = codes.shape[:2]
    tiles = np.empty((down, across, SIDE**2), np.float32)
    tiles[..., ORDERS[coding.order]] = values[states(codes, coding.bits * coding.vector)].reshape(tiles.shape)
    weight = tiles.reshape(down, across, SIDE, SIDE).swapaxes(1, 2).reshape(down * SIDE, across * SIDE)
    weight = weight[window.top - top * SIDE : window.bottom - top * SIDE]
    return weight[:, window.left - left * SIDE : window.right - left * SIDE]


def check(coding: Trellis, shape: Shape, arrays: Arrays) -> None:
    """A stored table is finite."""
    if "table" in arrays and not np.isfinite(whole(arrays["table"]).astype(np.float32)).all():
        raise InvalidFileError("table is not finite", field="table")
