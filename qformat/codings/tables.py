"""Named tables of numbers: one literal row each. A name is a promise: the same name is the same 2^bits floats."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qformat.errors import UnsupportedError


class Table(NamedTuple):
    """A named table: 2^bits float32 values, made on demand."""

    bits: int
    make: Callable[[], NDArray[Any]]


def minifloat(exponent: int, mantissa: int, bias: int) -> NDArray[np.float32]:
    """Every value of a sign–exponent–mantissa format with subnormals and without infinities or NaN, by code."""
    code = np.arange(2 ** (1 + exponent + mantissa))
    magnitude = code % 2 ** (exponent + mantissa)
    power, fraction = magnitude // 2**mantissa, magnitude % 2**mantissa / 2**mantissa
    value = np.where(power == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (power - float(bias)))
    signed: NDArray[np.float32] = np.where(code >= 2 ** (exponent + mantissa), -value, value).astype(np.float32)
    return signed


def _e4m3() -> NDArray[np.float32]:
    table = minifloat(4, 3, 7)
    table[[0x7F, 0xFF]] = np.nan
    return table


def _e5m2() -> NDArray[np.float32]:
    table = minifloat(5, 2, 15)
    table[[0x7C, 0xFC]] = np.inf, -np.inf
    table[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return table


def _e8m0() -> NDArray[np.float32]:
    table = 2.0 ** (np.arange(256) - 127.0)
    table[255] = np.nan
    return table.astype(np.float32)


def _dynamic8() -> NDArray[np.float32]:
    """bitsandbytes' signed dynamic map: 2^i midpoints of 2^i intervals of [0.1, 1] times 10^(i−6), i = 0 … 6.

    The interval ends are rounded once to float32 from both sides (`start + k·step`, `end − k·step`, with a fused
    multiply-add), as torch.linspace does; midpoints and products are float32.
    """
    start, end, values = np.float32(0.1), np.float32(1.0), [0.0, 1.0]
    for i in range(7):
        count = 2**i
        step = np.float64((end - start) / np.float32(count))
        k = np.arange(count + 1)
        ends = np.where(k < (count + 1) // 2, start + step * k, end - step * (count - k)).astype(np.float32)
        middle = (ends[:-1] + ends[1:]) / np.float32(2)
        magnitudes = np.float32(10.0 ** (i - 6)) * middle
        values += [*magnitudes.tolist(), *(-magnitudes).tolist()]
    return np.sort(np.array(values, np.float32))


def _nf4() -> NDArray[np.float32]:
    """QLoRA (arXiv 2305.14314) §3: quantiles of a normal, seven below zero, zero, eight above."""
    return np.array(
        [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
         -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
         0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
         0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32)  # fmt: skip


def _fp4() -> NDArray[np.float32]:
    """bitsandbytes' FP4; not the order, nor the values, of e2m1. Code 8 is +0."""
    half = np.array([0.0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / np.float32(12)
    return np.concatenate([half, 0 - half])


def _iq4_nl() -> NDArray[np.float32]:
    return np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


TABLE: dict[str, Table] = {
    "nf4": Table(4, _nf4),
    "fp4": Table(4, _fp4),
    "e2m1": Table(4, lambda: minifloat(2, 1, 1)),
    "e2m3": Table(6, lambda: minifloat(2, 3, 1)),
    "e3m2": Table(6, lambda: minifloat(3, 2, 3)),
    "e4m3": Table(8, _e4m3),
    "e5m2": Table(8, _e5m2),
    "e8m0": Table(8, _e8m0),
    "iq4_nl": Table(4, _iq4_nl),
    "dynamic8": Table(8, _dynamic8),
}

# What `table` says when the numbers are in the file instead.
STORED = ("tensor", "row")


@cache
def values(name: str) -> NDArray[np.float32]:
    """The float32 values of a named table, read-only; UnsupportedError when there is no such row."""
    if name not in TABLE:
        raise UnsupportedError("unknown table", field="table", expected=", ".join([*TABLE, *STORED]), found=name)
    table = TABLE[name].make()
    table.setflags(write=False)
    return table
