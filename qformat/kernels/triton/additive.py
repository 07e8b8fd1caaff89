"""`additive` on a GPU, in panels or plain: `scale · Σ_m codebooks[m, code_m]` (spec/codings/additive.md).

Each code fetches its entry, a short vector, from codebooks that stay in the caches; nothing is decoded to memory in a
product. Entries are added in the order of the books and then scaled, as the numpy decoder does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from qformat import codings
from qformat.codings import bits as bit
from qformat.codings.grammar import Additive, Block
from qformat.codings.parts import Arrays, whole
from qformat.codings.tiles import Tiles
from qformat.kernels.triton import panels
from qformat.kernels.triton.panels import store

if TYPE_CHECKING:
    import torch

# Rows of a program, weights that it holds at a time, and the widest entry that fits.
ROWS = 64
HELD = 2048
WIDEST = 32


@triton.jit
def _codes(
    body, row, across, book, group, nbytes, mask,
    BOOKS: tl.constexpr, BITS: tl.constexpr, PANELS: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr,
    P2: tl.constexpr, P3: tl.constexpr,
):  # fmt: skip
    """Codes of rows of blocks `row` and input groups `group` in one book: from panels of 64 rows, or a bit stream."""
    if PANELS:
        lane = row % 64
        at = (((row // 64).to(tl.int64) * across + group) * BOOKS + book) * (8 * BITS)
        code = _lane(body + at, lane, mask, P0)
        if P1 > 0:
            code = code | (_lane(body + at + 8 * P0, lane, mask, P1) << P0)
        if P2 > 0:
            code = code | (_lane(body + at + 8 * (P0 + P1), lane, mask, P2) << (P0 + P1))
        if P3 > 0:
            code = code | (_lane(body + at + 8 * (P0 + P1 + P2), lane, mask, P3) << (P0 + P1 + P2))
    else:
        at = ((row.to(tl.int64) * across + group) * BOOKS + book) * BITS
        byte = at // 8
        code = tl.load(body + byte, mask=mask, other=0).to(tl.uint32)
        code = code | (tl.load(body + byte + 1, mask=mask & (byte + 1 < nbytes), other=0).to(tl.uint32) << 8)
        code = code | (tl.load(body + byte + 2, mask=mask & (byte + 2 < nbytes), other=0).to(tl.uint32) << 16)
        code = (code >> (at % 8).to(tl.uint32)) & ((1 << BITS) - 1)
    return code.to(tl.int32)


@triton.jit
def _lane(plane, lane, mask, W: tl.constexpr):
    """The field of `lane` in a plane of W bits."""
    byte = tl.load(plane + lane % (8 * W), mask=mask, other=0).to(tl.uint32)
    return (byte >> (lane // (8 * W) * W).to(tl.uint32)) & ((1 << W) - 1)


@triton.jit
def _weights(
    body, books, scales, row, group, inside, across, scale_groups, nbytes, mask,
    BOOKS: tl.constexpr, BITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    SCALE_ROWS: tl.constexpr, SCALE_COLUMNS: tl.constexpr, PANELS: tl.constexpr,
    P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, P3: tl.constexpr,
):  # fmt: skip
    """Weights (rows, groups, inside): of `row` (rows, 1, 1), in input groups (1, groups, 1)."""
    here = mask & (inside < WIDE)
    weight = tl.zeros(here.shape, tl.float32)
    for book in tl.static_range(BOOKS):
        code = _codes(
            body, row // HIGH, across, book, group, nbytes, mask, BOOKS, BITS, PANELS, P0, P1, P2, P3
        )  # fmt: skip
        entry = (book * (1 << BITS) + code) * HIGH + row % HIGH
        weight += tl.load(books + entry.to(tl.int64) * WIDE + inside, mask=here, other=0.0).to(tl.float32)
    if SCALE_ROWS > 0:
        column = group * WIDE + inside
        at = (row // SCALE_ROWS).to(tl.int64) * scale_groups + column // SCALE_COLUMNS
        weight = tl.load(scales + at, mask=here, other=0.0) * weight
    return weight


@triton.jit
def _matvec(
    body, books, scales, x, out, rows, inputs, across, scale_groups, nbytes, batch, each,
    ROWS: tl.constexpr, GROUPS: tl.constexpr, PADDED: tl.constexpr, B: tl.constexpr,
    BOOKS: tl.constexpr, BITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    SCALE_ROWS: tl.constexpr, SCALE_COLUMNS: tl.constexpr, PANELS: tl.constexpr,
    P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, P3: tl.constexpr,
):  # fmt: skip
    """out (splits, batch, rows): program (tile of rows, split) sums `each` tiles of input groups."""
    split = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = tl.arange(0, PADDED)[None, None, :]
    number = tl.arange(0, B)
    total = tl.zeros((B, ROWS), tl.float32)
    for tile in tl.range(split * each, (split + 1) * each):
        group = tile * GROUPS + tl.arange(0, GROUPS)[None, :, None]
        mask = (row < rows)[:, None, None] & (group < across)
        weight = _weights(
            body, books, scales, row[:, None, None], group, inside, across, scale_groups, nbytes, mask,
            BOOKS, BITS, HIGH, WIDE, SCALE_ROWS, SCALE_COLUMNS, PANELS, P0, P1, P2, P3,
        )  # fmt: skip
        for b in tl.static_range(B):
            here = (group < across) & (inside < WIDE)
            # beyond the batch its last row is read again, and the result is not stored
            at = tl.minimum(batch - 1, b).to(tl.int64) * inputs + group * WIDE + inside
            values = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
            y = tl.sum(tl.sum(weight * values, axis=2), axis=1)
            total += tl.where((number == b)[:, None], y[None, :], 0.0)
    place = (split.to(tl.int64) * batch + number[:, None]) * rows + row[None, :]
    tl.store(out + place, total, mask=(number < batch)[:, None] & (row < rows)[None, :])


@triton.jit
def _decode(
    body, books, scales, out, rows, inputs, across, scale_groups, nbytes,
    ROWS: tl.constexpr, GROUPS: tl.constexpr, PADDED: tl.constexpr,
    BOOKS: tl.constexpr, BITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    SCALE_ROWS: tl.constexpr, SCALE_COLUMNS: tl.constexpr, PANELS: tl.constexpr,
    P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, P3: tl.constexpr,
):  # fmt: skip
    """out (rows, inputs): program (tile of rows, tile of input groups) decodes its rectangle."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None, None]
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)[None, :, None]
    inside = tl.arange(0, PADDED)[None, None, :]
    mask = (row < rows) & (group < across)
    weight = _weights(
        body, books, scales, row, group, inside, across, scale_groups, nbytes, mask,
        BOOKS, BITS, HIGH, WIDE, SCALE_ROWS, SCALE_COLUMNS, PANELS, P0, P1, P2, P3,
    )  # fmt: skip
    store(out + row.to(tl.int64) * inputs + group * WIDE + inside, weight, mask & (inside < WIDE))


@dataclass(frozen=True)
class AdditiveOperand:
    """A matrix (N, K) on a device: its codes as they are stored, codebooks in their dtype, scales as float32."""

    shape: tuple[int, int]
    constants: dict[str, Any]
    body: torch.Tensor
    books: torch.Tensor
    scales: torch.Tensor

    def _sizes(self) -> tuple[int, ...]:
        """rows, inputs, input groups, groups of scales of a row, bytes of the codes."""
        return (*self.shape, self.shape[1] // self.constants["WIDE"], self.scales.shape[-1], len(self.body))

    def matvec(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch ≤ 8, K), contiguous, times the matrix, transposed: float32 (batch, N)."""
        sizes, batch = self._sizes(), len(x)
        down, tiles = triton.cdiv(sizes[0], ROWS), triton.cdiv(sizes[2], self.constants["GROUPS"])
        each = triton.cdiv(tiles, min(max(panels.PROGRAMS // down, 1), tiles))
        splits = triton.cdiv(tiles, each)
        out = x.new_empty((splits, batch, sizes[0]), dtype=self.scales.dtype)
        _matvec[(down, splits)](
            self.body, self.books, self.scales, x, out, *sizes, batch, each,
            **self.constants, ROWS=ROWS, B=triton.next_power_of_2(batch),
        )  # fmt: skip
        return out[0] if splits == 1 else out.sum(0)

    def decode(self, dtype: torch.dtype) -> torch.Tensor:
        """The matrix (N, K) as float32, float16 or bfloat16."""
        sizes = self._sizes()
        out = self.body.new_empty(self.shape, dtype=dtype)
        grid = (triton.cdiv(sizes[0], ROWS), triton.cdiv(sizes[2], self.constants["GROUPS"]))
        _decode[grid](
            self.body, self.books, self.scales, out, *sizes, **self.constants, ROWS=ROWS, enable_fp_fusion=False
        )
        return out


def prepare(coding: Additive, shape: tuple[int, int], arrays: Arrays, body: torch.Tensor) -> AdditiveOperand | None:
    """An operand over codes that lie on a device; None for empty matrices, entries of more than WIDEST inputs, scales
    in other groups than blocks, and codebooks in other dtypes than float32, float16 and bfloat16.

    Args:
        arrays: every role, checked; scales are decoded from them once.
        body: the bytes of the panels, or of the plain codes, uint8, on the device.
    """
    group = coding.group
    if 0 in shape or coding.in_group > WIDEST or coding.codebooks.dtype not in panels.FLOATS:
        return None
    if coding.scales is not None and not isinstance(group, Block):
        return None
    scales = None if coding.scales is None else codings.decode_child(coding, shape, arrays, "scales")
    by_rows, by_columns = (group.rows or shape[0], group.columns or shape[1]) if isinstance(group, Block) else (1, 1)
    padded = triton.next_power_of_2(coding.in_group)
    planes = (*bit.lane_planes(coding.bits), 0, 0, 0)
    return AdditiveOperand(
        shape=shape,
        constants={
            "GROUPS": max(HELD // ROWS // padded, 1),
            "PADDED": padded,
            "BOOKS": coding.books,
            "BITS": coding.bits,
            "HIGH": coding.out_group,
            "WIDE": coding.in_group,
            "SCALE_ROWS": 0 if scales is None else by_rows,
            "SCALE_COLUMNS": by_columns,
            "PANELS": isinstance(codings.geometry(coding, shape), Tiles),
            **{f"P{number}": planes[number] for number in range(4)},
        },
        body=body,
        books=panels.placed(whole(arrays["codebooks"]), body),
        scales=panels.placed(scales, body),
    )
