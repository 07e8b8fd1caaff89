"""The `panel` layout of additive codes: 64 rows of blocks at a time, in the order in which tables are looked up.

A table of partial products belongs to an input group and a book, and is looked up for 64 rows at once. So a panel has,
for each input group and in it each book, the codes of its 64 rows: in planes of 8·w bytes, field j of byte k of a plane
holding row j·8·w + k. Rows beyond the matrix are zero bits. Codebooks and scales are in the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qformat.codings import bits as bit
from qformat.codings.parts import Buffer, Place, Role, Window, conform
from qformat.errors import InvalidFileError

LANES = bit.LANES


class Tiles(NamedTuple):
    """The geometry of the panels of additive codes (blocks down, blocks across, books)."""

    code: Role
    codes: str = "codes"

    @property
    def beside(self) -> dict[str, Role]:
        """Nothing lies beside these codes."""
        return {}

    @property
    def number(self) -> int:
        """Number of panels."""
        return -(-self.code.shape[0] // LANES) if self.panel_bytes else 0

    @property
    def panel_bytes(self) -> int:
        """Bytes of one panel."""
        _, across, books = self.code.shape
        return across * books * bit.lane_bytes(self.code.bits or 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all panels."""
        return self.number * self.panel_bytes


def pack(tiles: Tiles, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """The bytes of all panels."""
    codes = conform(tiles.codes, tiles.code, arrays)
    if tiles.nbytes == 0:
        return np.zeros(0, np.uint8)
    down, across, books = codes.shape
    padded = np.zeros((tiles.number * LANES, across, books), codes.dtype)
    padded[:down] = codes
    lanes = padded.reshape(tiles.number, LANES, across, books).transpose(0, 2, 3, 1)
    return bit.pack_lanes(lanes, tiles.code.bits or 0).reshape(-1)


def unpack(tiles: Tiles, stored: NDArray[np.uint8]) -> NDArray[Any]:
    """Codes (rows of these panels, across, books) from whole panels; padding rows included."""
    _, across, books = tiles.code.shape
    bits = tiles.code.bits or 0
    lanes = bit.unpack_lanes(stored.reshape(-1, across, books, bit.lane_bytes(bits)), bits)
    return lanes.transpose(0, 3, 1, 2).reshape(len(lanes) * LANES, across, books)


class Tiled:
    """Codes that lie in panels: rows on demand, reading only the panels that hold them."""

    def __init__(self, buffer: Buffer, place: Place, tiles: Tiles) -> None:
        self.buffer, self.place, self.tiles = buffer, place, tiles

    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """Rows [top, bottom) of blocks."""
        size, first, last = self.tiles.panel_bytes, top // LANES, -(-bottom // LANES)
        if first >= last or size == 0:
            return np.zeros((bottom - top, *self.tiles.code.shape[1:]), self.tiles.code.dtype)
        stored = self.buffer[self.place.offset + first * size : self.place.offset + last * size]
        return unpack(self.tiles, stored)[top - first * LANES : bottom - first * LANES]

    def window(self, window: Window) -> NDArray[Any]:
        return self.rows(window.top, window.bottom)[:, window.left : window.right]

    def whole(self) -> NDArray[Any]:
        return self.rows(0, self.tiles.code.shape[0])


def check(tiles: Tiles, place: Place, buffer: Buffer) -> None:
    """The rows that pad the last panel are zero."""
    spare = tiles.number * LANES - tiles.code.shape[0]
    if spare > 0:
        start = place.offset + (tiles.number - 1) * tiles.panel_bytes
        if unpack(tiles, buffer[start : start + tiles.panel_bytes])[LANES - spare :].any():
            raise InvalidFileError("padding of a panel is not zero", field="panels", offset=start)
