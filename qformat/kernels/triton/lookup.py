"""`lookup` in panels on a GPU: `scale · table[code]` (spec/codings/lookup.md).

Widths of one plane (1, 2, 4 and 8 bits: all that methods make) are multiplied dword by dword as they lie; of the others
each weight finds its own fields. The table stays in the first-level cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import triton
import triton.language as tl

from qformat.codings import tables
from qformat.codings.grammar import Lookup
from qformat.codings.parts import Arrays, whole
from qformat.kernels.triton import panels
from qformat.kernels.triton.panels import Geometry, Numbers, store
from qformat.kernels.triton.products import codes_in, load_tile, load_x, numbers_of, store_sums

if TYPE_CHECKING:
    import torch


@triton.jit
def _matvec(
    body, x, table, out, scale_values, rows, inputs, groups, panel_bytes, batch, each,
    C0: tl.constexpr, SCALES: tl.constexpr, SCALES_AT: tl.constexpr, SCALE_BITS: tl.constexpr,
    B: tl.constexpr, UNITS: tl.constexpr, GROUP: tl.constexpr, GROUP_BYTES: tl.constexpr, HEADER: tl.constexpr,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, ALIGNED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """out (splits, batch, rows): program (panel, split) sums `each` tiles of units of the only plane."""
    panel = tl.program_id(0)
    split = tl.program_id(1)
    codes = body + panel.to(tl.int64) * panel_bytes
    row = tl.arange(0, 16)[None, :]
    number = tl.arange(0, B)
    total = tl.zeros((B, UNITS, 16), tl.float32)
    for tile in tl.range(split * each, (split + 1) * each):
        group, first, held, dwords = load_tile(
            codes, tile, inputs, groups, 0, W0, C0, UNITS, GROUP, GROUP_BYTES, HEADER, W0, W1, W2, ALIGNED, EVEN
        )
        group, there = group[:, None], (held > 0)[:, None]
        scale = numbers_of(
            codes, scale_values, panel, group, groups, row, there, SCALES_AT, SCALES, SCALE_BITS, GROUP_BYTES, ALIGNED
        )
        part = tl.zeros((B, UNITS, 16), tl.float32)
        for j in tl.static_range(8 // W0):
            for k in tl.static_range(4):
                code = (dwords >> (8 * k + W0 * j)) & ((1 << W0) - 1)
                weight = tl.load(table + code.to(tl.int32), mask=there, other=0.0)
                values = load_x(x, number, batch, inputs, first + 4 * j + k, held > 4 * j + k)
                part += weight[None, :, :] * values[:, :, None]
        total += scale[None, :, :] * part
    store_sums(out, tl.sum(total, axis=1), number, batch, rows, panel, split)


@triton.jit
def _weights(
    codes, table, scale_values, panel, groups, r, i, there, inputs,
    SCALES: tl.constexpr, SCALES_AT: tl.constexpr, SCALE_BITS: tl.constexpr,
    GROUP: tl.constexpr, GROUP_BYTES: tl.constexpr, HEADER: tl.constexpr,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Weights in rows `r` (…, 1) of a panel and inputs `i` (1, …); 0 where masked."""
    group = i // GROUP
    code = codes_in(codes, group, i, inputs, r, there, GROUP, GROUP_BYTES, HEADER, W0, W1, W2, ALIGNED)
    scale = numbers_of(
        codes, scale_values, panel, group, groups, r, there, SCALES_AT, SCALES, SCALE_BITS, GROUP_BYTES, ALIGNED
    )
    return scale * tl.load(table + code.to(tl.int32), mask=there, other=0.0)


@triton.jit
def _matvec_planes(
    body, x, table, out, scale_values, rows, inputs, groups, panel_bytes, batch, each,
    SCALES: tl.constexpr, SCALES_AT: tl.constexpr, SCALE_BITS: tl.constexpr, B: tl.constexpr, COVERED: tl.constexpr,
    GROUP: tl.constexpr, GROUP_BYTES: tl.constexpr, HEADER: tl.constexpr,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, ALIGNED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """The same for codes of several planes: `each` tiles of 16 rows × COVERED inputs."""
    panel = tl.program_id(0)
    split = tl.program_id(1)
    codes = body + panel.to(tl.int64) * panel_bytes
    r = tl.arange(0, 16)[:, None]
    number = tl.arange(0, B)
    total = tl.zeros((B, 16, COVERED), tl.float32)
    for tile in tl.range(split * each, (split + 1) * each):
        i = tile * COVERED + tl.arange(0, COVERED)
        there = (r >= 0) & (i < inputs)[None, :]
        weight = _weights(
            codes, table, scale_values, panel, groups, r, i[None, :], there, inputs,
            SCALES, SCALES_AT, SCALE_BITS, GROUP, GROUP_BYTES, HEADER, W0, W1, W2, ALIGNED,
        )  # fmt: skip
        values = load_x(x, number, batch, inputs, i, i < inputs)
        total += weight[None, :, :] * values[:, None, :]
    store_sums(out, tl.sum(total, axis=2), number, batch, rows, panel, split)


@triton.jit
def _decode(
    body, out, table, scale_values, rows, inputs, groups, panel_bytes,
    SCALES: tl.constexpr, SCALES_AT: tl.constexpr, SCALE_BITS: tl.constexpr, COVERED: tl.constexpr,
    GROUP: tl.constexpr, GROUP_BYTES: tl.constexpr, HEADER: tl.constexpr,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, ALIGNED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """out (rows, inputs): program (panel, part) decodes 16 rows × COVERED inputs."""
    panel = tl.program_id(0)
    codes = body + panel.to(tl.int64) * panel_bytes
    r = tl.arange(0, 16)[:, None]
    i = tl.program_id(1) * COVERED + tl.arange(0, COVERED)[None, :]
    row = panel * 16 + r
    there = (row < rows) & (i < inputs)
    weight = _weights(
        codes, table, scale_values, panel, groups, r, i, there, inputs,
        SCALES, SCALES_AT, SCALE_BITS, GROUP, GROUP_BYTES, HEADER, W0, W1, W2, ALIGNED,
    )  # fmt: skip
    store(out + row.to(tl.int64) * inputs + i, weight, there)


@dataclass(frozen=True)
class LookupOperand:
    """A matrix (N, K) on a device: its panels as they are stored, the table and nested scales as float32."""

    geometry: Geometry
    scales: Numbers
    body: torch.Tensor
    table: torch.Tensor
    scale_values: torch.Tensor

    def _constants(self) -> dict[str, int | bool]:
        return {**self.geometry.constants(), **self.scales.constants("SCALE")}

    def matvec(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch ≤ 8, K), contiguous, times the matrix, transposed: float32 (batch, N)."""
        geometry, constants = self.geometry, self._constants()
        (rows, inputs), batch = geometry.shape, len(x)
        padded = triton.next_power_of_2(batch)
        sizes = (rows, inputs, geometry.groups, geometry.panel_bytes, batch)
        if constants["W1"]:
            splits, each = geometry.splits(triton.cdiv(inputs, panels.COVERED))
            out = x.new_empty((splits, batch, rows), dtype=self.table.dtype)
            _matvec_planes[(geometry.panels, splits)](
                self.body, x, self.table, out, self.scale_values, *sizes, each,
                **constants, B=padded, COVERED=panels.COVERED,
            )  # fmt: skip
        else:
            splits, each = geometry.splits()
            out = x.new_empty((splits, batch, rows), dtype=self.table.dtype)
            _matvec[(geometry.panels, splits)](
                self.body, x, self.table, out, self.scale_values, *sizes, each,
                **constants, C0=geometry.columns(constants["W0"]), B=padded, UNITS=panels.UNITS,
            )  # fmt: skip
        return out[0] if splits == 1 else out.sum(0)

    def decode(self, dtype: torch.dtype) -> torch.Tensor:
        """The matrix (N, K) as float32, float16 or bfloat16."""
        geometry = self.geometry
        out = self.body.new_empty(geometry.shape, dtype=dtype)
        _decode[(geometry.panels, triton.cdiv(geometry.shape[1], panels.COVERED))](
            self.body, out, self.table, self.scale_values, *geometry.shape, geometry.groups,
            geometry.panel_bytes, **self._constants(), COVERED=panels.COVERED, enable_fp_fusion=False,
        )  # fmt: skip
        return out


def prepare(coding: Lookup, shape: tuple[int, int], arrays: Arrays, body: torch.Tensor) -> LookupOperand | None:
    """An operand over panels that lie on a device; None in the plain layout, for tables per row and with an offset.

    Args:
        arrays: every role, checked; nested scales are decoded from them once.
        body: the bytes of the panels, uint8, on the device.
    """
    geometry = panels.geometry(coding, shape)
    if geometry is None or coding.offset is not None or coding.table == "row":
        return None
    entries = whole(arrays["table"]) if coding.table == "tensor" else tables.values(coding.table)
    scales = panels.numbers("scales", coding.scales, coding, shape, arrays)
    return LookupOperand(
        geometry=geometry,
        scales=scales,
        body=body,
        table=panels.placed(np.array(entries, np.float32), body),
        scale_values=panels.placed(scales.values, body),
    )
