"""`affine` in panels on a GPU: `scale · (code − zero)` or `scale · code + offset` (spec/codings/affine.md).

A product takes the planes of a code one after the other. Each dword gives Σ field·x and Σ x over its few inputs; zero,
offset and scale are applied to these sums, in float32, before anything else is added. Decoding rounds as the numpy
decoder does: no fused multiply-add.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from qformat.codings.grammar import Affine
from qformat.codings.parts import Arrays
from qformat.kernels.triton import panels
from qformat.kernels.triton.panels import Geometry, Numbers, store
from qformat.kernels.triton.products import codes_in, load_tile, load_x, numbers_of, store_sums

if TYPE_CHECKING:
    import torch


@triton.jit
def _plane(
    total, codes, x, inputs, panel, groups, tile, batch, scale_values, shift_values, bias,
    PLANE: tl.constexpr, W: tl.constexpr, LOW: tl.constexpr, COLUMNS: tl.constexpr,
    SCALES: tl.constexpr, SHIFTS: tl.constexpr, SHIFTS_AT: tl.constexpr, SHIFT_BITS: tl.constexpr,
    SCALES_AT: tl.constexpr, SCALE_BITS: tl.constexpr, OFFSETS: tl.constexpr,
    B: tl.constexpr, UNITS: tl.constexpr, GROUP: tl.constexpr, GROUP_BYTES: tl.constexpr, HEADER: tl.constexpr,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, ALIGNED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """total (B, UNITS, 16) plus one tile of units of one plane, times x (batch, inputs)."""
    number = tl.arange(0, B)
    group, first, held, dwords = load_tile(
        codes, tile, inputs, groups, PLANE, W, COLUMNS, UNITS,
        GROUP, GROUP_BYTES, HEADER, W0, W1, W2, ALIGNED, EVEN,
    )  # fmt: skip
    part = tl.zeros((B, UNITS, 16), tl.float32)
    x_sum = tl.zeros((B, UNITS), tl.float32)
    for j in tl.static_range(8 // W):
        for k in tl.static_range(4):
            code = ((dwords >> (8 * k + W * j)) & ((1 << W) - 1)).to(tl.float32)
            values = load_x(x, number, batch, inputs, first + 4 * j + k, held > 4 * j + k)
            part += code[None, :, :] * values[:, :, None]
            x_sum += values
    group, there, row = group[:, None], (held > 0)[:, None], tl.arange(0, 16)[None, :]
    scale = tl.full((UNITS, 16), 1.0, tl.float32)
    if SCALES != 0:
        scale = numbers_of(
            codes, scale_values, panel, group, groups, row, there, SCALES_AT, SCALES, SCALE_BITS, GROUP_BYTES, ALIGNED
        )
    if PLANE == 0:
        shift = tl.zeros((UNITS, 16), tl.float32)
        if SHIFTS != 0:
            shift = numbers_of(
                codes, shift_values, panel, group, groups, row, there,
                SHIFTS_AT, SHIFTS, SHIFT_BITS, GROUP_BYTES, ALIGNED,
            )  # fmt: skip
        if OFFSETS:
            part -= bias * x_sum[:, :, None]
            total += shift[None, :, :] * x_sum[:, :, None]
        else:
            part -= (shift + bias)[None, :, :] * x_sum[:, :, None]
    return total + (scale * (1 << LOW))[None, :, :] * part


@triton.jit
def _matvec(
    body, x, out, scale_values, shift_values, rows, inputs, groups, panel_bytes, batch, each, bias,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr,
    SCALES: tl.constexpr, SCALES_AT: tl.constexpr, SCALE_BITS: tl.constexpr,
    SHIFTS: tl.constexpr, SHIFTS_AT: tl.constexpr, SHIFT_BITS: tl.constexpr, OFFSETS: tl.constexpr,
    B: tl.constexpr, UNITS: tl.constexpr, GROUP: tl.constexpr, GROUP_BYTES: tl.constexpr, HEADER: tl.constexpr,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, ALIGNED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """out (splits, batch, rows): program (panel, split) sums `each` tiles of units of every plane."""
    panel = tl.program_id(0)
    split = tl.program_id(1)
    codes = body + panel.to(tl.int64) * panel_bytes
    total = tl.zeros((B, UNITS, 16), tl.float32)
    for tile in tl.range(split * each, (split + 1) * each):
        total = _plane(
            total, codes, x, inputs, panel, groups, tile, batch, scale_values, shift_values, bias,
            0, W0, 0, C0, SCALES, SHIFTS, SHIFTS_AT, SHIFT_BITS, SCALES_AT, SCALE_BITS, OFFSETS,
            B, UNITS, GROUP, GROUP_BYTES, HEADER, W0, W1, W2, ALIGNED, EVEN,
        )  # fmt: skip
        if W1 > 0:
            total = _plane(
                total, codes, x, inputs, panel, groups, tile, batch, scale_values, shift_values, bias,
                1, W1, W0, C1, SCALES, SHIFTS, SHIFTS_AT, SHIFT_BITS, SCALES_AT, SCALE_BITS, OFFSETS,
                B, UNITS, GROUP, GROUP_BYTES, HEADER, W0, W1, W2, ALIGNED, EVEN,
            )  # fmt: skip
        if W2 > 0:
            total = _plane(
                total, codes, x, inputs, panel, groups, tile, batch, scale_values, shift_values, bias,
                2, W2, W0 + W1, C2, SCALES, SHIFTS, SHIFTS_AT, SHIFT_BITS, SCALES_AT, SCALE_BITS, OFFSETS,
                B, UNITS, GROUP, GROUP_BYTES, HEADER, W0, W1, W2, ALIGNED, EVEN,
            )  # fmt: skip
    store_sums(out, tl.sum(total, axis=1), tl.arange(0, B), batch, rows, panel, split)


@triton.jit
def _decode(
    body, out, scale_values, shift_values, rows, inputs, groups, panel_bytes, bias,
    SCALES: tl.constexpr, SCALES_AT: tl.constexpr, SCALE_BITS: tl.constexpr,
    SHIFTS: tl.constexpr, SHIFTS_AT: tl.constexpr, SHIFT_BITS: tl.constexpr, OFFSETS: tl.constexpr,
    COVERED: tl.constexpr, GROUP: tl.constexpr, GROUP_BYTES: tl.constexpr, HEADER: tl.constexpr,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, ALIGNED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """out (rows, inputs): program (panel, part) decodes 16 rows × COVERED inputs."""
    panel = tl.program_id(0)
    r = tl.arange(0, 16)[:, None]
    i = tl.program_id(1) * COVERED + tl.arange(0, COVERED)[None, :]
    row = panel * 16 + r
    there = (row < rows) & (i < inputs)
    group = i // GROUP
    codes = body + panel.to(tl.int64) * panel_bytes
    weight = codes_in(codes, group, i, inputs, r, there, GROUP, GROUP_BYTES, HEADER, W0, W1, W2, ALIGNED)
    weight = weight.to(tl.float32) - bias
    if SHIFTS != 0:
        shift = numbers_of(
            codes, shift_values, panel, group, groups, r, there, SHIFTS_AT, SHIFTS, SHIFT_BITS, GROUP_BYTES, ALIGNED
        )
        if not OFFSETS:
            weight = weight - shift
    if SCALES != 0:
        weight = weight * numbers_of(
            codes, scale_values, panel, group, groups, r, there, SCALES_AT, SCALES, SCALE_BITS, GROUP_BYTES, ALIGNED
        )
    if OFFSETS:
        weight = weight + shift
    store(out + row.to(tl.int64) * inputs + i, weight, there)


@dataclass(frozen=True)
class AffineOperand:
    """A matrix (N, K) on a device: its panels as they are stored, and numbers that are not in them as float32."""

    geometry: Geometry
    scales: Numbers
    shifts: Numbers
    offsets: bool
    bias: float
    body: torch.Tensor
    scale_values: torch.Tensor
    shift_values: torch.Tensor

    def _constants(self) -> dict[str, int | bool]:
        return {
            **self.geometry.constants(),
            **self.scales.constants("SCALE"),
            **self.shifts.constants("SHIFT"),
            "OFFSETS": self.offsets,
        }

    def matvec(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch ≤ 8, K), contiguous, times the matrix, transposed: float32 (batch, N)."""
        geometry = self.geometry
        (rows, inputs), batch = geometry.shape, len(x)
        splits, each = geometry.splits()
        out = x.new_empty((splits, batch, rows), dtype=self.scale_values.dtype)
        widths = [geometry.constants()[name] for name in ("W0", "W1", "W2")]
        columns = [geometry.columns(width) if width else 1 for width in widths]
        _matvec[(geometry.panels, splits)](
            self.body, x, out, self.scale_values, self.shift_values, rows, inputs, geometry.groups,
            geometry.panel_bytes, batch, each, self.bias, *columns,
            **self._constants(), B=triton.next_power_of_2(batch), UNITS=panels.UNITS,
        )  # fmt: skip
        return out[0] if splits == 1 else out.sum(0)

    def decode(self, dtype: torch.dtype) -> torch.Tensor:
        """The matrix (N, K) as float32, float16 or bfloat16."""
        geometry = self.geometry
        out = self.body.new_empty(geometry.shape, dtype=dtype)
        _decode[(geometry.panels, triton.cdiv(geometry.shape[1], panels.COVERED))](
            self.body, out, self.scale_values, self.shift_values, *geometry.shape, geometry.groups,
            geometry.panel_bytes, self.bias, **self._constants(), COVERED=panels.COVERED, enable_fp_fusion=False,
        )  # fmt: skip
        return out


def prepare(coding: Affine, shape: tuple[int, int], arrays: Arrays, body: torch.Tensor) -> AffineOperand | None:
    """An operand over panels that lie on a device; None in the plain layout and for empty matrices.

    Args:
        arrays: every role, checked; nested scales and zeros are decoded from them once.
        body: the bytes of the panels, uint8, on the device.
    """
    geometry = panels.geometry(coding, shape)
    if geometry is None:
        return None
    second = "offsets" if coding.offsets is not None else "zeros"
    scales = panels.numbers("scales", coding.scales, coding, shape, arrays)
    shifts = panels.numbers(second, getattr(coding, second), coding, shape, arrays)
    return AffineOperand(
        geometry=geometry,
        scales=scales,
        shifts=shifts,
        offsets=second == "offsets",
        bias=float(2 ** (coding.bits - 1)) if coding.signed else 0.0,
        body=body,
        scale_values=panels.placed(scales.values, body),
        shift_values=panels.placed(shifts.values, body),
    )
