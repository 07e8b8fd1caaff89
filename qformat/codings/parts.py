"""Roles and where they lie: the vocabulary that codings, layouts and the linear grammar share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from qformat.codings import bits as bit
from qformat.dtypes import itemsize, numpy_dtype
from qformat.errors import InvalidFileError

ALIGNMENT = 64


class Role(NamedTuple):
    """One array of a coding: the dtype and shape that it has unpacked, and `bits` if it is stored as a bit stream.

    Signed codes are stored as code + 2^(bits−1).
    """

    dtype: str
    shape: tuple[int, ...]
    bits: int | None = None
    signed: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the stored form."""
        count = prod(self.shape)
        return count * itemsize(self.dtype) if self.bits is None else bit.stream_bytes(count, self.bits)


class Place(NamedTuple):
    """A part of an extent."""

    offset: int
    nbytes: int


class Extent(NamedTuple):
    """The parts of an extent in file order, by role (or `panels`)."""

    length: int
    places: dict[str, Place]


class Window(NamedTuple):
    """A rectangle of a matrix: rows [top, bottom), columns [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


class Buffer(Protocol):
    """Bytes of an extent: an array, or something that reads and checks only what is asked for."""

    def __getitem__(self, key: slice, /) -> NDArray[np.uint8]: ...


class Part(Protocol):
    """An array that may not have been read yet: rows and columns on demand, or the whole."""

    def window(self, window: Window) -> NDArray[Any]: ...

    def whole(self) -> NDArray[Any]: ...


Arrays = Mapping[str, "NDArray[Any] | Part"]

# Bytes [start, stop) of a part of an extent, which is called as its layout does: a role, or `panels`.
Read = Callable[[str, int, int], NDArray[np.uint8]]


def cut(array: NDArray[Any] | Part, window: Window) -> NDArray[Any]:
    """A rectangle of an array whose first two dimensions are a matrix."""
    return array[window.slices] if isinstance(array, np.ndarray) else array.window(window)


def whole(array: NDArray[Any] | Part) -> NDArray[Any]:
    """All of an array."""
    return array if isinstance(array, np.ndarray) else array.whole()


class Stored:
    """A role that lies in one place of an extent, row-major: raw numbers or an LSB-first stream."""

    def __init__(self, buffer: Buffer, place: Place, role: Role) -> None:
        self.buffer, self.place, self.role = buffer, place, role
        self.row = prod(role.shape[1:])

    def run(self, start: int, stop: int) -> NDArray[Any]:
        """Elements [start, stop) of the flattened array; only their bytes are read."""
        role, base = self.role, self.place.offset
        if role.bits is None:
            dtype = numpy_dtype(role.dtype)
            return self.buffer[base + start * dtype.itemsize : base + stop * dtype.itemsize].view(dtype)
        aligned = start // 8 * 8  # eight codes are whole bytes
        first = aligned * role.bits // 8
        packed = self.buffer[base + first : base + bit.stream_bytes(stop, role.bits)]
        return unbias(bit.unpack_stream(packed, role.bits, stop - start, start - aligned), role)

    def window(self, window: Window) -> NDArray[Any]:
        step = self.row // self.role.shape[1] if self.row else 0  # elements of one column (books of additive codes)
        inner = self.role.shape[2:]
        if window.bottom - window.top == 1 and self.row:
            start = window.top * self.row
            run = self.run(start + window.left * step, start + window.right * step)
            return run.reshape(1, window.right - window.left, *inner)
        rows = self.run(window.top * self.row, window.bottom * self.row)
        return rows.reshape(window.bottom - window.top, *self.role.shape[1:])[:, window.left : window.right]

    def whole(self) -> NDArray[Any]:
        return self.run(0, prod(self.role.shape)).reshape(self.role.shape)


def bias(codes: NDArray[Any], role: Role) -> NDArray[Any]:
    """Codes as they are stored: unsigned."""
    if not role.signed or role.bits is None:
        return codes
    return np.asarray(codes.astype(np.int32) + 2 ** (role.bits - 1), bit.code_dtype(role.bits))


def unbias(codes: NDArray[Any], role: Role) -> NDArray[Any]:
    """Inverse of `bias`."""
    if not role.signed or role.bits is None:
        return codes
    return np.asarray(codes.astype(np.int32) - 2 ** (role.bits - 1), role.dtype)


def conform(name: str, role: Role, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The array of a role, of exactly its dtype and shape; InvalidFileError when it is missing or different."""
    if name not in arrays:
        raise InvalidFileError("missing array", field=name, expected=f"{role.dtype} {role.shape}")
    array = arrays[name]
    if array.shape != role.shape or array.dtype != numpy_dtype(role.dtype):
        found = f"{array.dtype} {array.shape}"
        raise InvalidFileError("wrong dtype or shape", field=name, expected=f"{role.dtype} {role.shape}", found=found)
    if role.bits is not None and array.size:
        low, high = (-(2 ** (role.bits - 1)), 2 ** (role.bits - 1)) if role.signed else (0, 2**role.bits)
        least, most = int(array.min()), int(array.max())
        if least < low or most >= high:
            worst = least if least < low else most
            raise InvalidFileError("code out of range", field=name, expected=f"{low} to {high - 1}", found=worst)
    return array


def stored_bytes(name: str, role: Role, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """The stored form of one role."""
    array = conform(name, role, arrays)
    if role.bits is None:
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return bit.pack_stream(bias(array, role), role.bits)


def align(offset: int) -> int:
    """The next multiple of the alignment."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def lay(sizes: Mapping[str, int]) -> Extent:
    """Parts one after the other, each at a multiple of 64 bytes; the extent ends where its last part ends."""
    places, end = {}, 0
    for name, nbytes in sizes.items():
        places[name] = Place(align(end), nbytes)
        end = places[name].offset + nbytes
    return Extent(end, places)


@contextmanager
def within(name: str) -> Iterator[None]:
    """Errors about a nested role say its whole path."""
    try:
        yield
    except InvalidFileError as error:
        error.field = f"{name}.{error.field}"
        raise
