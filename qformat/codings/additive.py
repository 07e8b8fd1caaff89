"""`additive`: blocks of weights as sums of codebook entries (AQLM, arXiv 2401.06118 §3).

    block(o, i) = Σ_m codebooks[m, code[o, i, m]]          weight = scale · block

An entry is a block of (out_group, in_group) weights. In float32: entries are added in the order of the books, then the
scale multiplies. The last row of blocks may reach beyond the matrix; what it holds there is dropped. Books have 2^bits
entries, always, so that a code cannot be out of range.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qformat.codings import groups
from qformat.codings.bits import code_dtype
from qformat.codings.grammar import Additive
from qformat.codings.parts import Arrays, Role, Window, cut, whole
from qformat.codings.protocol import Child, Spread
from qformat.dtypes import TABLE as DTYPES
from qformat.errors import InvalidFileError

Shape = tuple[int, int]


def validate(coding: Additive, field: str) -> None:
    """1–16 bits, 1–64 books, entries of at most 4096 weights, codebooks of floats."""
    limits = {"bits": 16, "books": 64, "in_group": 4096, "out_group": 4096}
    for name, most in limits.items():
        found, where = getattr(coding, name), f"{field}.{name}"
        if not 1 <= found <= most:
            raise InvalidFileError(f"{name} out of range", field=where, expected=f"1 to {most}", found=found)
    if coding.in_group * coding.out_group > 4096:
        found = coding.in_group * coding.out_group
        raise InvalidFileError("entry too large", field=f"{field}.in_group", expected="at most 4096", found=found)
    dtype = coding.codebooks.dtype
    if dtype not in DTYPES or DTYPES[dtype].kind != "float":
        raise InvalidFileError("codebooks must be floats", field=f"{field}.codebooks", found=dtype)
    groups.validate(coding.group, field)


def children(coding: Additive, shape: Shape) -> dict[str, Child]:
    return {} if coding.scales is None else {"scales": Child(coding.scales, coding.group)}


def roles(coding: Additive, shape: Shape) -> dict[str, Role]:
    rows, columns = shape
    if columns % coding.in_group:
        raise InvalidFileError("in_group does not divide the columns", field="in_group", found=coding.in_group)
    blocks = (-(-rows // coding.out_group), columns // coding.in_group)
    books = Role(coding.codebooks.dtype, (coding.books, 2**coding.bits, coding.out_group, coding.in_group))
    codes = Role(code_dtype(coding.bits), (*blocks, coding.books), coding.bits)
    return {"codebooks": books, **groups.roles(coding.group, shape), "codes": codes}


def decode(coding: Additive, shape: Shape, arrays: Arrays, window: Window, spread: Spread) -> NDArray[np.float32]:
    """`scale · Σ_m codebooks[m, code_m]` of a rectangle."""
    high, wide = coding.out_group, coding.in_group
    top, left = window.top // high, window.left // wide
    codes = cut(arrays["codes"], Window(top, -(-window.bottom // high), left, -(-window.right // wide)))
    books = whole(arrays["codebooks"]).astype(np.float32)
    blocks = books[0][codes[..., 0]]
    for book in range(1, coding.books):
        blocks = blocks + books[book][codes[..., book]]
    down, across = codes.shape[:2]
    weight = blocks.transpose(0, 2, 1, 3).reshape(down * high, across * wide)
    weight = weight[window.top - top * high : window.bottom - top * high]
    weight = weight[:, window.left - left * wide : window.right - left * wide]
    return np.asarray(weight if coding.scales is None else spread("scales") * weight)


def check(coding: Additive, shape: Shape, arrays: Arrays) -> None:
    """Codebooks are finite; an explicit map must stay within its groups."""
    if not np.isfinite(whole(arrays["codebooks"]).astype(np.float32)).all():
        raise InvalidFileError("codebooks are not finite", field="codebooks")
    if "groups" in arrays:
        groups.check(coding.group, whole(arrays["groups"]))
