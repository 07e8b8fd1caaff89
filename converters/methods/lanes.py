"""The arithmetic that the numpy twins share with the native loops: sixteen float lanes, one order of every sum.

A group of weights is cut into chunks of sixteen; lane i of a sum adds element i of every chunk, in the order of the
chunks, and at the end the lanes are added in halves (8, 4, 2, 1). Every step is rounded to float32 (sums of squared
errors: float64), nothing is fused. The C++ in `cpp/` does the same on every instruction set, so codes, scales and
errors are equal bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LANES = 16

# Adding and subtracting 1.5 · 2^23 rounds a float32 below 2^22 to the nearest integer, ties to even.
_ROUNDER = np.float32(12582912.0)

# A group whose largest and smallest weight differ by less than this holds one value.
SMALLEST_RANGE = np.float32(2.0**-100)

# Larger weights are refused: what is computed from them must stay within float32.
LARGEST_WEIGHT = 2.0**100

Array = NDArray[Any]


class Groups(NamedTuple):
    """A matrix (n, K) cut into groups: x (n, G, C, 16), zero where `mask` (G, C, 16) is 0; `sizes` (G,) float64."""

    x: Array
    mask: Array
    sizes: Array
    shape: tuple[int, int]
    size: int

    @property
    def low(self) -> Array:
        """Smallest weight of each group, (n, G, 1, 1); never a negative zero."""
        low: Array = np.where(self.mask > 0, self.x, np.float32(np.inf)).min(axis=(2, 3), keepdims=True)
        return np.add(low, np.float32(0))

    @property
    def high(self) -> Array:
        """Largest weight of each group, (n, G, 1, 1); never a negative zero."""
        high: Array = np.where(self.mask > 0, self.x, np.float32(-np.inf)).max(axis=(2, 3), keepdims=True)
        return np.add(high, np.float32(0))


def cut(weight: Array, group: int) -> Groups:
    """Cut float32 (n, K), K > 0, into groups of `group` inputs; the last one may be short."""
    rows, columns = weight.shape
    number, chunks = -(-columns // group), -(-group // LANES)
    valid = np.zeros((number, chunks * LANES), np.float32)
    valid[:, :group] = 1
    valid[-1, columns - (number - 1) * group :] = 0
    padded = np.zeros((rows, number, chunks * LANES), np.float32)
    padded[:, :, :group] = np.pad(weight, ((0, 0), (0, number * group - columns))).reshape(rows, number, group)
    sizes = valid.sum(axis=1, dtype=np.float64)
    shape = (number, chunks, LANES)
    return Groups(padded.reshape(rows, *shape), valid.reshape(shape), sizes, weight.shape, group)


def paste(groups: Groups, values: Array) -> Array:
    """Values (n, G, C, 16) of the groups as a matrix (n, K); inverse of `cut`."""
    rows, columns = groups.shape
    number = values.shape[1]
    flat = values.reshape(rows, number, -1)[:, :, : groups.size].reshape(rows, number * groups.size)
    return np.ascontiguousarray(flat[:, :columns])


def total(values: Array) -> Array:
    """Sum over the last two axes (chunks, lanes) in the fixed order; both axes are kept with length 1."""
    lanes: Array = np.cumsum(values, axis=-2, dtype=values.dtype)[..., -1:, :]  # a running sum has one order only
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return np.asarray(lanes + values.dtype.type(0))  # sums begin at zero: none is a negative zero


def nearest(values: Array) -> Array:
    """Nearest integers of float32 values below 2^22, ties to even, as float32."""
    integers: Array = (values + _ROUNDER) - _ROUNDER
    return integers


def clip(values: Array, low: Any, high: Any) -> Array:
    """Values between low and high, float32."""
    return np.minimum(np.maximum(values, np.float32(low)), np.float32(high))


def store(values: Array, dtype: str) -> Array:
    """Float32 values as they read back after being stored as `dtype` (float16 or float32)."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(dtype).astype(np.float32)


def inverse(scale: Array) -> Array:
    """1/scale, and 0 where scale is 0 or so small that its inverse is not a number."""
    usable = np.abs(scale) >= np.float32(2.0**-126)
    return np.where(usable, np.float32(1) / np.where(usable, scale, np.float32(1)), np.float32(0))


def measure(groups: Groups, decoded: Array) -> Array:
    """(n, 3) float64: of each row the squared error, the squared norm and the largest absolute error."""
    x, v = groups.x.astype(np.float64), decoded.astype(np.float64)
    difference = (x - v) * groups.mask
    rows = len(x)

    def row_sum(values: Array) -> Array:
        return total((values * values).reshape(rows, -1, LANES)).reshape(rows)

    largest = np.abs(difference).reshape(rows, -1).max(axis=1)
    return np.stack([row_sum(difference), row_sum(x), largest], axis=1)


def measure_matrix(weight: Array, decoded: Array) -> Array:
    """The errors of each row of a matrix, whatever its groups; twin of the native loop `measure`."""
    columns = max(weight.shape[1], 1)
    return measure(cut(weight, columns), cut(decoded, columns).x)
