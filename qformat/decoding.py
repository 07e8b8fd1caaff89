"""Coded matrices into arrays, in tiles: by the kernels where they can, else as the definitions in numpy say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat import codings, kernels, linear
from qformat.codings.grammar import Coding, Dense
from qformat.codings.panel import ROWS
from qformat.codings.parts import Arrays, Buffer, Window, cut
from qformat.errors import UnsupportedError
from qformat.schemes import Scheme
from qformat.selection import Selection

# Weights decoded at a time: what decoding needs beside its result stays below 64 MiB.
TILE = 1 << 20

# Bytes of a line of the cache.
LINE = 64


@dataclass(frozen=True)
class Coded:
    """A matrix of `shape` (out_features, in_features) as a file holds it: its extent, and its roles.

    What indexes something in `arrays` has been checked.
    """

    scheme: Scheme
    shape: tuple[int, int]
    parameters: tuple[int, ...]
    arrays: Arrays
    extent: Buffer


def decode(coded: Coded, selection: Selection, dtype: np.dtype[Any], out: NDArray[Any] | None) -> NDArray[Any]:
    """What is selected, in the shape of the source; into `out`, C-contiguous and of that shape and dtype, if given.

    Raises:
        UnsupportedError: columns (or rows) of a tensor whose transforms mix them; complex numbers into real ones.
        ValueError: `out` does not fit.
    """
    scheme = coded.scheme
    if out is not None:
        _check_out(out, selection.shape, dtype)
    if selection.some_columns and linear.mixes_columns(scheme):
        raise UnsupportedError("its transforms mix columns, so it has no column slices", field="transforms")
    if selection.some_rows and linear.mixes_rows(scheme):
        raise UnsupportedError("its output transforms mix rows, so it has no row slices", field="transforms")
    if out is None or scheme.transposed:
        matrix = _in_lines(selection.matrix_shape, dtype)
    else:
        matrix = out.reshape(selection.matrix_shape)
    if matrix.size:
        _matrix(coded, selection, matrix)
    result = selection.restore(matrix)
    if out is None:
        return result
    if scheme.transposed:
        out[...] = result
    return out


def _matrix(coded: Coded, selection: Selection, out: NDArray[Any]) -> None:
    """What is selected of the matrix, in tiles, into `out`."""
    whole = not (selection.some_rows or selection.some_columns)
    if whole and not _surrounded(coded.scheme) and _natively(coded, coded.shape, out):
        return
    most = _tile_rows(coded.shape[1]) if linear.row_local(coded.scheme) else coded.shape[0]
    for tile in selection.tiles(most):
        out[tile.into] = _window(coded, tile.window, out.dtype)[tile.rows][:, selection.inside]


def _window(coded: Coded, window: Window, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A rectangle of the matrix."""
    if isinstance(coded.scheme.coding, Dense) and not _surrounded(coded.scheme):
        values = cut(coded.arrays["values"], window)
        if values.dtype.kind == "c" and dtype.kind != "c":
            raise UnsupportedError("complex numbers do not decode into real ones", field="dtype", found=str(dtype))
    else:
        if window[2:] == (0, coded.shape[1]) and not _surrounded(coded.scheme):
            rows = np.empty(window.shape, dtype)
            if _natively(coded, coded.shape, rows, window.top):
                return rows
        inner = partial(_coded_window, coded)
        values = linear.decode(coded.scheme, coded.shape, coded.arrays, window, coded.parameters, inner)
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype, copy=False)


def _coded_window(
    coded: Coded, coding: Coding, shape: tuple[int, int], arrays: Arrays, window: Window
) -> NDArray[np.float32]:
    """A rectangle of the coded matrix, of this shape: by the kernels, if it is whole rows of what they decode."""
    if window[2:] == (0, shape[1]):
        rows = np.empty(window.shape, np.float32)
        if _natively(coded, shape, rows, window.top):
            return rows
    return codings.decode(coding, shape, arrays, window)


def _natively(coded: Coded, shape: tuple[int, int], out: NDArray[Any], top: int = 0) -> bool:
    """Rows of the coded matrix, of this shape, from `top` on into `out` by the kernels; whether they can.

    They give the numbers that the numpy decoder gives.
    """
    scheme = coded.scheme
    places = linear.layout(scheme, coded.shape, coded.parameters).places

    def read(name: str, first: int, last: int) -> NDArray[np.uint8]:
        return coded.extent[places[name].offset + first : places[name].offset + last]

    # what they need beside the result is the codes, if these are compressed, and scales that are coded themselves
    step = 16 * _tile_rows(shape[1])
    for first in range(0, len(out), step):
        part = out[first : first + step]
        rows = range(top + first, top + first + len(part))
        if not kernels.decode_rows(scheme.coding, shape, coded.arrays, read, rows, part, kernels.active()):
            return False
    return True


def _surrounded(scheme: Scheme) -> bool:
    """Whether the weights are more than what the coding gives."""
    return bool(scheme.transforms or scheme.output_transforms or scheme.corrections)


def _tile_rows(inputs: int) -> int:
    """Rows decoded at a time: whole panels, if there is room for some."""
    rows = TILE // max(inputs, 1)
    return rows // ROWS * ROWS or max(rows, 1)


def _check_out(out: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out is {out.dtype} {out.shape}, expected {dtype} {shape}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("out must be C-contiguous and writeable")


def _in_lines(shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A new array that starts with a line of the cache, as stores that pass it by need; small ones are as they come."""
    size = prod(shape) * dtype.itemsize
    if size < TILE or dtype.hasobject:
        return np.empty(shape, dtype)
    space = np.empty(size + LINE, np.uint8)
    start = -space.ctypes.data % LINE
    return space[start : start + size].view(dtype).reshape(shape)
