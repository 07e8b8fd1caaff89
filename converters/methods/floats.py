"""16-bit floats: as float32, which is exact, and how large they are."""

from __future__ import annotations

import numpy as np

from qformat.converters.methods import native
from qformat.converters.methods.base import Array


def to_float32(weight: Array) -> Array:
    """An array of any float type as contiguous float32 of the same shape; float32 is not copied.

    What is too large for float32 becomes an infinity, which the methods refuse.
    """
    if weight.dtype == np.float32:
        return np.ascontiguousarray(weight)
    if weight.dtype.itemsize == 2 and weight.dtype.name in ("float16", "bfloat16"):
        raw = np.ascontiguousarray(weight).reshape(-1).view(np.uint16)
        loop = native.loop("widen", lambda bits, _: bits.view(weight.dtype).astype(np.float32))
        return np.asarray(loop(raw, weight.dtype.name == "float16")).reshape(weight.shape)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(weight, dtype=np.float32)


def largest_bits(raw: Array) -> int:
    """The largest of contiguous 16-bit floats, given as uint16, without their signs: bits order like the numbers."""
    return int(native.loop("largest_bits", largest_bits_loop)(raw.reshape(-1)))


def largest_bits_loop(raw: Array) -> int:
    """Twin of the native loop."""
    return int((raw & np.uint16(0x7FFF)).max(initial=0))
