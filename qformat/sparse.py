"""Sparse matrices as rows of (column, value), and other small things that transforms and corrections share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat.codings.parts import Arrays, Part, Role, Stored, whole
from qformat.dtypes import TABLE as DTYPES
from qformat.errors import InvalidFileError, UnsupportedError


def csr_roles(rows: int, nonzeros: int, dtype: str) -> dict[str, Role]:
    """The three arrays of a matrix in compressed rows."""
    return {
        "row_pointers": Role("uint32", (rows + 1,)),
        "columns": Role("uint32", (nonzeros,)),
        "values": Role(dtype, (nonzeros,)),
    }


def rows_of(pointers: NDArray[Any]) -> NDArray[np.intp]:
    """The row of each non-zero of a CSR matrix."""
    wide = pointers.astype(np.int64)
    return np.repeat(np.arange(len(pointers) - 1), wide[1:] - wide[:-1])


def elements(array: NDArray[Any] | Part, start: int, stop: int) -> NDArray[Any]:
    """Elements [start, stop) of a 1-D role."""
    return array.run(start, stop) if isinstance(array, Stored) else whole(array)[start:stop]


def float_dtype(dtype: str, field: str) -> None:
    """The dtype must be known, and a float."""
    if dtype not in DTYPES:
        raise UnsupportedError("unknown dtype", field=f"{field}.dtype", found=dtype)
    if DTYPES[dtype].kind != "float":
        raise InvalidFileError("not a float dtype", field=f"{field}.dtype", found=dtype)


def check_csr(where: str, arrays: Arrays, side: int) -> None:
    """Pointers rise from 0 to the number of non-zeros; columns rise within a row and stay below `side`."""
    pointers, columns = whole(arrays[f"{where}.row_pointers"]), whole(arrays[f"{where}.columns"]).astype(np.int64)
    field = f"{where}.row_pointers"
    if int(pointers[0]) != 0 or int(pointers[-1]) != len(columns):
        found = f"{int(pointers[0])} to {int(pointers[-1])}"
        raise InvalidFileError(
            "row pointers do not span the non-zeros", field=field, expected=len(columns), found=found
        )
    if (pointers[1:] < pointers[:-1]).any():
        raise InvalidFileError("row pointers fall", field=field)
    check_columns(where, columns, side, rows_of(pointers))


def check_columns(where: str, columns: NDArray[Any], side: int, rows: NDArray[Any] | None = None) -> None:
    """Columns rise (within a row) and stay below `side`."""
    field = f"{where}.columns"
    if columns.size and int(columns.max()) >= side:
        raise InvalidFileError("column out of range", field=field, expected=f"below {side}", found=int(columns.max()))
    falls = columns[1:] <= columns[:-1]
    if rows is not None:
        falls &= rows[1:] == rows[:-1]
    if falls.any():
        raise InvalidFileError(f"columns do not rise at entry {int(np.flatnonzero(falls)[0]) + 1}", field=field)


def check_finite(field: str, arrays: Arrays) -> None:
    """Every number of a role is finite."""
    with np.errstate(invalid="ignore"):  # a cast complains of signalling NaNs
        finite = np.isfinite(whole(arrays[field]).astype(np.float64))
    if not finite.all():
        raise InvalidFileError("not finite", field=field)
