"""The `panel` layout: codes in the order in which a dot product eats them, their scales beside them.

Panels of ROWS output rows follow each other, all equally long, so one thread reads one forward stream. Inside a panel
the groups follow along the input. A group is a header (for each array beside the codes: ROWS numbers, raw or as a bit
stream) and then its codes in runs of at most BLOCK inputs; in a run each plane of the code's width is a sequence of
columns of ROWS dwords, row r in dword r. Rows beyond the matrix and inputs beyond the group are zero bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qformat.codings import bits as bit
from qformat.codings.parts import Buffer, Place, Role, Window, bias, conform, unbias
from qformat.dtypes import itemsize, numpy_dtype
from qformat.errors import InvalidFileError

ROWS = 16
BLOCK = 64


class Panels(NamedTuple):
    """The geometry of the panels of an (N, K) matrix in groups of one row × `group` inputs.

    `beside` are the first-level arrays (N, ⌈K/group⌉) that lie in the group headers, in order.
    """

    shape: tuple[int, int]
    group: int
    codes: str
    code: Role
    beside: dict[str, Role]

    @property
    def number(self) -> int:
        """Number of panels."""
        return -(-self.shape[0] // ROWS) if self.shape[1] else 0

    @property
    def widths(self) -> list[tuple[int, int, int]]:
        """(first group, number of groups, inputs of each): the whole groups, then the short one."""
        full, short = divmod(self.shape[1], self.group)
        return [part for part in ((0, full, self.group), (full, 1, short)) if part[1] and part[2]]

    @property
    def header(self) -> int:
        """Bytes of a group's header."""
        return sum(header_bytes(role) for role in self.beside.values())

    def group_bytes(self, inputs: int) -> int:
        """Bytes of a group of `inputs`, header included."""
        runs, rest = divmod(inputs, BLOCK)
        bits = self.code.bits or 0
        return self.header + runs * run_bytes(BLOCK, bits) + (run_bytes(rest, bits) if rest else 0)

    @property
    def panel_bytes(self) -> int:
        """Bytes of one panel."""
        return sum(count * self.group_bytes(inputs) for _, count, inputs in self.widths)

    @property
    def nbytes(self) -> int:
        """Bytes of all panels."""
        return self.number * self.panel_bytes


def run_bytes(inputs: int, bits: int) -> int:
    """Bytes of one run: each plane is a number of columns of ROWS dwords."""
    return sum(4 * ROWS * -(-inputs * width // 32) for width in bit.PLANES[bits])


def header_bytes(role: Role) -> int:
    """Bytes of ROWS numbers in a group's header."""
    return ROWS * itemsize(role.dtype) if role.bits is None else bit.stream_bytes(ROWS, role.bits)


def _rows_padded(array: NDArray[Any]) -> NDArray[Any]:
    """(N, G) as (panels, ROWS, G), zeros below."""
    panels = -(-array.shape[0] // ROWS)
    padded = np.zeros((panels * ROWS, array.shape[1]), array.dtype)
    padded[: array.shape[0]] = array
    return padded.reshape(panels, ROWS, array.shape[1])


def pack(panels: Panels, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """The bytes of all panels from the codes and the arrays beside them (in their dtypes and shapes)."""
    given = {name: bias(conform(name, role, arrays), role) for name, role in panels.beside.items()}
    given_codes = bias(conform(panels.codes, panels.code, arrays), panels.code)
    if panels.nbytes == 0:
        return np.zeros(0, np.uint8)
    codes = _rows_padded(given_codes)
    beside = {name: _rows_padded(numbers) for name, numbers in given.items()}
    pieces = []
    for first, count, inputs in panels.widths:
        left = first * panels.group
        part = codes[:, :, left : left + count * inputs].reshape(panels.number, ROWS, count, inputs)
        group = [
            _pack_header(role, beside[name][:, :, first : first + count].transpose(0, 2, 1))
            for name, role in panels.beside.items()
        ]
        group += _pack_runs(part.transpose(0, 2, 1, 3), panels.code.bits or 0)
        pieces.append(np.concatenate(group, axis=2).reshape(panels.number, count * panels.group_bytes(inputs)))
    return np.concatenate(pieces, axis=1).reshape(-1)


def _pack_header(role: Role, numbers: NDArray[Any]) -> NDArray[np.uint8]:
    """(panels, groups, ROWS) numbers as (panels, groups, bytes)."""
    packed = (
        np.ascontiguousarray(numbers).view(np.uint8) if role.bits is None else bit.pack_stream(numbers, role.bits)
    )  # ROWS codes of any width are whole bytes, so the streams of all groups are one stream
    return packed.reshape(*numbers.shape[:2], header_bytes(role))


def _pack_runs(codes: NDArray[Any], bits: int) -> list[NDArray[np.uint8]]:
    """(panels, groups, ROWS, inputs) codes as arrays (panels, groups, bytes): the whole runs, then the short one."""
    panels, groups, _, inputs = codes.shape
    runs = inputs // BLOCK
    pieces = []
    for part, count in ((codes[..., : runs * BLOCK], runs), (codes[..., runs * BLOCK :], 1)):
        if part.shape[3]:
            part = part.reshape(panels, groups, ROWS, count, part.shape[3] // count).swapaxes(2, 3)
            planes = [
                np.ascontiguousarray(plane.swapaxes(3, 4)).view(np.uint8).reshape(panels, groups, count, -1)
                for plane in bit.pack_dwords(part, bits)
            ]
            pieces.append(np.concatenate(planes, axis=3).reshape(panels, groups, -1))
    return pieces


def unpack_codes(panels: Panels, stored: NDArray[np.uint8]) -> NDArray[Any]:
    """Codes (rows of these panels, K), unsigned, from whole panels (count, panel_bytes); padding rows included."""
    count, bits = len(stored), panels.code.bits or 0
    out = np.empty((count, ROWS, panels.shape[1]), np.uint8)
    start = 0
    for first, groups, inputs in panels.widths:
        size = panels.group_bytes(inputs)
        part = stored[:, start : start + groups * size].reshape(count, groups, size)[:, :, panels.header :]
        codes = _unpack_runs(part, bits, inputs)
        left = first * panels.group
        out[:, :, left : left + groups * inputs] = codes.transpose(0, 2, 1, 3).reshape(count, ROWS, groups * inputs)
        start += groups * size
    return out.reshape(count * ROWS, panels.shape[1])


def _unpack_runs(stored: NDArray[np.uint8], bits: int, inputs: int) -> NDArray[np.uint8]:
    """Inverse of `_pack_runs`: (panels, groups, ROWS, inputs)."""
    panels, groups, _ = stored.shape
    runs, rest = divmod(inputs, BLOCK)
    pieces, start = [], 0
    for count, length in ((runs, BLOCK), (1, rest)):
        if count and length:
            size = run_bytes(length, bits)
            part = np.ascontiguousarray(stored[:, :, start : start + count * size])
            words = part.view("<u4").reshape(panels, groups, count, size // 4 // ROWS, ROWS).swapaxes(3, 4)
            ends = np.cumsum([-(-length * width // 32) for width in bit.PLANES[bits]])[:-1]
            codes = bit.unpack_dwords(np.split(words, ends, axis=4), bits, length)
            pieces.append(codes.swapaxes(2, 3).reshape(panels, groups, ROWS, count * length))
            start += count * size
    return np.concatenate(pieces, axis=3)


def unpack_beside(panels: Panels, name: str, stored: NDArray[np.uint8]) -> NDArray[Any]:
    """An array beside the codes (rows of these panels, G), as stored (unsigned), from whole panels."""
    role, count = panels.beside[name], len(stored)
    before = 0
    for other, its_role in panels.beside.items():
        if other == name:
            break
        before += header_bytes(its_role)
    columns, start = [], 0
    for _, groups, inputs in panels.widths:
        size = panels.group_bytes(inputs)
        part = stored[:, start : start + groups * size].reshape(count, groups, size)
        part = np.ascontiguousarray(part[:, :, before : before + header_bytes(role)])
        if role.bits is None:
            numbers = part.view(numpy_dtype(role.dtype))
        else:
            numbers = bit.unpack_stream(part.reshape(-1), role.bits, count * groups * ROWS)
        columns.append(numbers.reshape(count, groups, ROWS).transpose(0, 2, 1))
        start += groups * size
    whole = np.concatenate(columns, axis=2)
    return whole.reshape(count * ROWS, whole.shape[2])


class Inlaid:
    """A role that lies in the panels: rows and groups on demand, reading only the panels that hold them."""

    def __init__(self, buffer: Buffer, place: Place, panels: Panels, name: str) -> None:
        self.buffer, self.place, self.panels, self.name = buffer, place, panels, name
        self.role = panels.beside.get(name, panels.code)

    def window(self, window: Window) -> NDArray[Any]:
        """A rectangle of the role: of the panels that hold it, only its groups are unpacked."""
        top, bottom, left, right = window
        size, first, last = self.panels.panel_bytes, top // ROWS, -(-bottom // ROWS)
        if first >= last or left >= right or size == 0:
            return np.zeros(window.shape, numpy_dtype(self.role.dtype))
        wide = self.panels.group if self.name == self.panels.codes else 1
        begin, end = left // wide, -(-right // wide)
        part, span = _some_groups(self.panels, begin, end)
        stored = self.buffer[self.place.offset + first * size : self.place.offset + last * size]
        stored = stored.reshape(-1, size)[:, span]
        if self.name == part.codes:
            array = unpack_codes(part, stored)
        else:
            array = unpack_beside(part, self.name, stored)
        rows = slice(top - first * ROWS, bottom - first * ROWS)
        return unbias(array[rows, left - begin * wide : right - begin * wide], self.role)

    def whole(self) -> NDArray[Any]:
        return self.window(Window(0, self.panels.shape[0], 0, self.role.shape[1]))


def _some_groups(panels: Panels, begin: int, end: int) -> tuple[Panels, slice]:
    """Groups [begin, end) as panels of their own, and their bytes in each panel."""
    full, short = divmod(panels.shape[1], panels.group)
    inputs = min(end * panels.group, panels.shape[1]) - begin * panels.group
    before, after = (min(groups, full) * panels.group_bytes(panels.group) for groups in (begin, end))
    after += panels.group_bytes(short) if end > full else 0
    return panels._replace(shape=(panels.shape[0], inputs)), slice(before, after)


def check(panels: Panels, place: Place, buffer: Buffer, most: int = 1 << 24) -> None:
    """Padding is zero: what is stored must be what packing its arrays gives.

    Only what has padding is looked at: the last panel, and groups whose inputs do not fill the columns of a plane.
    """
    size, start = panels.panel_bytes, 0
    for _, groups, inputs in panels.widths:
        span = slice(start, start + groups * panels.group_bytes(inputs))
        begin = 0 if _is_padded(inputs, panels.code.bits or 0) else panels.shape[0] // ROWS
        step = max(most // (span.stop - span.start), 1)
        for first in range(begin, panels.number, step):
            last = min(first + step, panels.number)
            stored = buffer[place.offset + first * size : place.offset + last * size].reshape(-1, size)[:, span]
            rows = min(panels.shape[0], last * ROWS) - first * ROWS
            tile = panels._replace(
                shape=(rows, groups * inputs),
                group=inputs,
                code=panels.code._replace(shape=(rows, groups * inputs)),
                beside={name: role._replace(shape=(rows, groups)) for name, role in panels.beside.items()},
            )
            flat = np.ascontiguousarray(stored).reshape(-1)
            arrays = {
                name: Inlaid(flat, Place(0, flat.size), tile, name).whole() for name in (tile.codes, *tile.beside)
            }
            different = np.flatnonzero(pack(tile, arrays) != flat)
            if different.size:
                row, byte = divmod(int(different[0]), stored.shape[1])
                at = place.offset + (first + row) * size + start + byte
                raise InvalidFileError("padding of a panel is not zero", field="panels", offset=at)
        start = span.stop


def _is_padded(inputs: int, bits: int) -> bool:
    """Whether a group of `inputs` leaves part of a column empty."""
    runs, rest = divmod(inputs, BLOCK)
    return any(run * width % 32 for run in (BLOCK if runs else 0, rest) for width in bit.PLANES[bits])
