"""`split`: runs of columns, each with a coding of its own: widths that change inside a matrix (EXL2).

C = (C₀ C₁ …), part p of columns[p] columns
"""

from __future__ import annotations

from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from qformat.codings.grammar import Split
from qformat.codings.groups import Span
from qformat.codings.parts import Arrays, Role, Window
from qformat.codings.protocol import Child, Spread
from qformat.errors import InvalidFileError

Shape = tuple[int, int]

PARTS = 64


def validate(coding: Split, field: str) -> None:
    """1–64 parts of at least one column."""
    count = len(coding.parts)
    if not 1 <= count <= PARTS:
        expected = f"1 to {PARTS}"
        raise InvalidFileError("number of parts out of range", field=f"{field}.parts", expected=expected, found=count)
    if len(coding.columns) != count:
        where, found = f"{field}.columns", len(coding.columns)
        raise InvalidFileError("not one number for each part", field=where, expected=count, found=found)
    for part, width in enumerate(coding.columns):
        if not 1 <= width < 2**48:
            where = f"{field}.columns.{part}"
            raise InvalidFileError("columns out of range", field=where, expected="1 to 2^48-1", found=width)


def children(coding: Split, shape: Shape) -> dict[str, Child]:
    edges = pairwise(accumulate(coding.columns, initial=0))
    spans = zip(coding.parts, edges, strict=True)
    return {f"parts.{number}": Child(part, Span(*edge)) for number, (part, edge) in enumerate(spans)}


def roles(coding: Split, shape: Shape) -> dict[str, Role]:
    if sum(coding.columns) != shape[1]:
        found = sum(coding.columns)
        raise InvalidFileError("the parts do not fill the matrix", field="columns", expected=shape[1], found=found)
    return {}


def decode(coding: Split, shape: Shape, arrays: Arrays, window: Window, spread: Spread) -> NDArray[np.float32]:
    """The parts of a rectangle beside each other."""
    met = [
        name
        for name, (_, span) in children(coding, shape).items()
        if isinstance(span, Span) and span.start < window.right and span.stop > window.left
    ]
    return np.concatenate([spread(name) for name in met], axis=1)


def check(coding: Split, shape: Shape, arrays: Arrays) -> None:
    """Nothing of its own: the parts are checked as they are."""
