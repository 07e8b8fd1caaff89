"""What the kernels of `affine` and `lookup` share on the device: tiles of units, codes, numbers of groups, x, sums.

A program multiplies the 16 rows of a panel. `number` counts rows of x, (B,), of which `batch` are there.
"""

from __future__ import annotations

import triton
import triton.language as tl

from qformat.kernels.triton.panels import codes_at, load_numbers, load_units, units


@triton.jit
def load_tile(
    codes, tile, inputs, groups, PLANE: tl.constexpr, W: tl.constexpr, COLUMNS: tl.constexpr, UNITS: tl.constexpr,
    GROUP: tl.constexpr, GROUP_BYTES: tl.constexpr, HEADER: tl.constexpr,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, ALIGNED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """A tile of units of a plane: (their groups, first inputs, inputs that they hold, dwords (UNITS, 16))."""
    u = tile * UNITS + tl.arange(0, UNITS)
    group, at, first, held = units(u, inputs, PLANE, W, COLUMNS, GROUP, GROUP_BYTES, HEADER, W0, W1, W2, ALIGNED, EVEN)
    held = tl.where(u < groups * COLUMNS, held, 0)  # units beyond the last, or beyond a short group, hold nothing
    return group, first, held, load_units(codes, at, held > 0, ALIGNED)


@triton.jit
def load_x(x, number, batch, inputs, at, there):
    """x at inputs `at`, (B, …) float32; 0 where these are not `there`."""
    here = there[None, :] & (number < batch)[:, None]
    return tl.load(x + number.to(tl.int64)[:, None] * inputs + at[None, :], mask=here, other=0.0).to(tl.float32)


@triton.jit
def numbers_of(
    codes, values, panel, group, groups, row, there, AT: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr,
    GROUP_BYTES: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """The number of row `row` in `group` of the panel at `codes`: from the group's header, or of `values`."""
    header = codes + group.to(tl.int64) * GROUP_BYTES + AT
    beside = (panel.to(tl.int64) * groups + group) * 16
    return load_numbers(header, row, there, values + beside, KIND, BITS, ALIGNED)


@triton.jit
def codes_in(
    codes, group, i, inputs, row, there, GROUP: tl.constexpr, GROUP_BYTES: tl.constexpr, HEADER: tl.constexpr,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """The codes of inputs `i`, which are in `group`, in rows `row` of the panel at `codes`."""
    at = codes + group.to(tl.int64) * GROUP_BYTES + HEADER
    length = tl.minimum(inputs - group * GROUP, GROUP)
    return codes_at(at, i % GROUP, length, row, there, W0, W1, W2, ALIGNED)


@triton.jit
def store_sums(out, y, number, batch, rows, panel, split):
    """y (B, 16) to out (splits, batch, rows)."""
    row = panel * 16 + tl.arange(0, 16)
    place = (split.to(tl.int64) * batch + number[:, None]) * rows + row[None, :]
    tl.store(out + place, y, mask=(number < batch)[:, None] & (row < rows)[None, :])
