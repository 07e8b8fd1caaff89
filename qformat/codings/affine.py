"""`affine`: evenly spaced numbers.

    weight = scale · (code − zero)        or        weight = scale · code + offset

All in float32. The zero is subtracted before the product; the offset is added after it, each step rounded (no fused
multiply-add).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qformat.codings import groups
from qformat.codings.bits import code_dtype
from qformat.codings.grammar import Affine
from qformat.codings.parts import Arrays, Role, Window, cut, whole
from qformat.codings.protocol import Child, Spread
from qformat.errors import InvalidFileError

Shape = tuple[int, int]


def validate(coding: Affine, field: str) -> None:
    """Bits from 1 to 8; zeros or offsets, not both."""
    if not 1 <= coding.bits <= 8:
        raise InvalidFileError("bits out of range", field=f"{field}.bits", expected="1 to 8", found=coding.bits)
    if coding.zeros is not None and coding.offsets is not None:
        raise InvalidFileError("zeros and offsets exclude each other", field=field)
    groups.validate(coding.group, field)


def children(coding: Affine, shape: Shape) -> dict[str, Child]:
    named = {"scales": coding.scales, "zeros": coding.zeros, "offsets": coding.offsets}
    return {name: Child(child, coding.group) for name, child in named.items() if child is not None}


def roles(coding: Affine, shape: Shape) -> dict[str, Role]:
    codes = Role(code_dtype(coding.bits, coding.signed), shape, coding.bits, coding.signed)
    return {**groups.roles(coding.group, shape), "codes": codes}


def decode(coding: Affine, shape: Shape, arrays: Arrays, window: Window, spread: Spread) -> NDArray[np.float32]:
    """`scale · (code − zero)` or `scale · code + offset` of a rectangle."""
    weight = cut(arrays["codes"], window).astype(np.float32)
    if coding.zeros is not None:
        weight = weight - spread("zeros")
    if coding.scales is not None:
        weight = spread("scales") * weight
    if coding.offsets is not None:
        weight = weight + spread("offsets")
    return weight


def check(coding: Affine, shape: Shape, arrays: Arrays) -> None:
    """Every code is allowed; an explicit map must stay within its groups."""
    if "groups" in arrays:
        groups.check(coding.group, whole(arrays["groups"]))
