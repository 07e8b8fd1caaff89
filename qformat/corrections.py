"""Corrections: what is added to the output of a coded matrix, from the layer's own input."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat.codings.grammar import Frozen
from qformat.codings.parts import Arrays, Role, Window, cut, whole
from qformat.sparse import check_columns, check_csr, check_finite, csr_roles, elements, float_dtype, rows_of

Shape = tuple[int, int]


class LowRank(Frozen, frozen=True, tag="lowrank", tag_field="correction"):
    """`y += B (A x)`. Parameter: rank. Roles: a (rank, K), b (N, rank)."""

    dtype: str


class Outliers(Frozen, frozen=True, tag="outliers", tag_field="correction"):
    """`y += S x`, S (N, K) CSR. Parameter: non-zeros. Roles: row_pointers uint32 (N + 1,), columns uint32, values."""

    dtype: str


class OutlierColumns(Frozen, frozen=True, tag="outlier_columns", tag_field="correction"):
    """`y += V x[columns]`. Parameter: columns. Roles: columns uint32 (n,), rising; values (N, n)."""

    dtype: str


Correction = LowRank | Outliers | OutlierColumns


def validate(correction: Correction, where: str) -> None:
    """Parameters make sense whatever the shape."""
    float_dtype(correction.dtype, where)


def bound(correction: Correction, shape: Shape) -> tuple[str, int]:
    """What the correction's one recorded parameter is, and the most that it can be."""
    if isinstance(correction, LowRank):
        return "rank", min(shape)
    if isinstance(correction, Outliers):
        return "non-zeros", min(shape[0] * shape[1], 2**32 - 1)
    return "columns", shape[1]


def roles(correction: Correction, shape: Shape, number: int) -> dict[str, Role]:
    """The arrays of a correction with its recorded parameter."""
    dtype = correction.dtype
    match correction:
        case LowRank():
            return {"a": Role(dtype, (number, shape[1])), "b": Role(dtype, (shape[0], number))}
        case Outliers():
            return csr_roles(shape[0], number, dtype)
        case OutlierColumns():
            return {"columns": Role("uint32", (number,)), "values": Role(dtype, (shape[0], number))}


def add(matrix: NDArray[Any], correction: Correction, arrays: Arrays, window: Window) -> NDArray[Any]:
    """A rectangle of W plus the same rectangle of a correction."""
    dtype = matrix.dtype
    top, bottom, left, right = window
    match correction:
        case LowRank():
            a = whole(arrays["a"])[:, left:right].astype(dtype)
            b = cut(arrays["b"], Window(top, bottom, 0, len(a))).astype(dtype)
            product = np.zeros_like(matrix)
            for r in range(len(a)):  # in this order, not in the one that a matrix product would choose
                product += b[:, r, None] * a[r]
            return np.asarray(matrix + product)
        case Outliers():
            pointers = whole(arrays["row_pointers"])[top : bottom + 1].astype(np.int64)
            start, stop = int(pointers[0]), int(pointers[-1])
            rows, columns = rows_of(pointers), whole(arrays["columns"])[start:stop].astype(np.int64)
            inside = (columns >= left) & (columns < right)
            values = elements(arrays["values"], start, stop).astype(dtype)
            matrix[rows[inside], columns[inside] - left] += values[inside]
            return matrix
        case OutlierColumns():
            columns = whole(arrays["columns"]).astype(np.int64)
            first, last = np.searchsorted(columns, [left, right])
            values = cut(arrays["values"], Window(top, bottom, int(first), int(last))).astype(dtype)
            matrix[:, columns[first:last] - left] += values
            return matrix


def rows(correction: Correction, arrays: Arrays, wanted: range) -> dict[str, NDArray[Any]]:
    """The arrays of the same correction of some rows of W."""
    match correction:
        case LowRank():
            a = whole(arrays["a"])
            return {"a": a, "b": cut(arrays["b"], Window(wanted.start, wanted.stop, 0, len(a)))}
        case Outliers():
            pointers = whole(arrays["row_pointers"])[wanted.start : wanted.stop + 1].astype(np.int64)
            start, stop = int(pointers[0]), int(pointers[-1])
            its = {name: elements(arrays[name], start, stop) for name in ("columns", "values")}
            return its | {"row_pointers": pointers - start}
        case OutlierColumns():
            columns = whole(arrays["columns"])
            return {
                "columns": columns,
                "values": cut(arrays["values"], Window(wanted.start, wanted.stop, 0, len(columns))),
            }


def check_indices(correction: Correction, where: str, arrays: Arrays, side: int) -> None:
    """Indices are in range: `arrays` holds the roles under the name `where`."""
    if isinstance(correction, Outliers):
        check_csr(where, arrays, side)
    if isinstance(correction, OutlierColumns):
        check_columns(where, whole(arrays[f"{where}.columns"]).astype(np.int64), side)


def check_numbers(correction: Correction, where: str, arrays: Arrays) -> None:
    """Numbers are finite."""
    for name in ("a", "b") if isinstance(correction, LowRank) else ("values",):
        check_finite(f"{where}.{name}", arrays)
