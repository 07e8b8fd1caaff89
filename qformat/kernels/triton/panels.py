"""What the Triton kernels of `affine` and `lookup` share: reading groups of the panel layout (spec/codings/panel.md).

The stored bytes lie on the device as they lie in the file. A *unit* is one column of one plane: 16 dwords, one a row,
each with 32/w fields of w bits. The product kernels load units as they lie, so that neighbouring threads read
neighbouring bytes; the decoders, which are bound by what they write, find each weight's fields on their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import triton
import triton.language as tl
from numpy.typing import NDArray

from qformat import codings
from qformat.codings import bits as bit
from qformat.codings import panel
from qformat.codings.grammar import Affine, Coding, Dense, Lookup
from qformat.codings.parts import Arrays

if TYPE_CHECKING:
    import torch

# How a number of a group is stored, as kernels.h numbers it.
NONE, PACKED, EXTERNAL = 0, 4, 5
FLOATS = {"float16": 1, "bfloat16": 2, "float32": 3}

# The most rows of x that one launch multiplies with.
BATCH = 8

# Units that a program loads at a time, and inputs that a program of a decoder covers.
UNITS = 32
COVERED = 128

# Programs that fill a large GPU several times over: matrices with few panels are cut along the input until they have
# as many. The number depends on the shape only, so results do not depend on the device.
PROGRAMS = 1024


@dataclass(frozen=True)
class Numbers:
    """How a kernel finds one number per group and row."""

    kind: int
    at: int
    bits: int
    values: NDArray[np.float32] | None

    def constants(self, name: str) -> dict[str, int]:
        """The compile-time parameters that say so."""
        return {f"{name}S": self.kind, f"{name}S_AT": self.at, f"{name}_BITS": self.bits}


@dataclass(frozen=True)
class Geometry:
    """What the kernels need to know of a matrix (N, K) in panels."""

    shape: tuple[int, int]
    group: int
    bits: int
    header: int
    panel_bytes: int
    group_bytes: int

    @property
    def panels(self) -> int:
        """Number of panels."""
        return -(-self.shape[0] // panel.ROWS)

    @property
    def groups(self) -> int:
        """Groups of a row."""
        return -(-self.shape[1] // self.group)

    @property
    def aligned(self) -> bool:
        """Whether every dword lies at a multiple of four bytes; packed zeros of an odd width move them by two."""
        return self.header % 4 == 0

    @property
    def even(self) -> bool:
        """Whether every run has 64 inputs."""
        return self.group % panel.BLOCK == 0 and self.shape[1] % self.group == 0

    def columns(self, width: int) -> int:
        """Columns of a plane of `width` bits in a whole group."""
        runs, rest = divmod(self.group, panel.BLOCK)
        return runs * 2 * width + -(-rest * width // 32)

    def constants(self) -> dict[str, Any]:
        """The compile-time parameters that every kernel takes."""
        planes = (*bit.PLANES[self.bits], 0, 0)
        return {
            "GROUP": self.group,
            "GROUP_BYTES": self.group_bytes,
            "HEADER": self.header,
            "W0": planes[0],
            "W1": planes[1],
            "W2": planes[2],
            "ALIGNED": self.aligned,
            "EVEN": self.even,
        }

    def splits(self, tiles: int = 0) -> tuple[int, int]:
        """(programs along the input, tiles for each) of a product with one program per panel; of units by default."""
        tiles = tiles or max(-(-self.groups * self.columns(width) // UNITS) for width in bit.PLANES[self.bits])
        wanted = min(max(PROGRAMS // self.panels, 1), tiles)
        each = -(-tiles // wanted)
        return -(-tiles // each), each


def geometry(coding: Affine | Lookup, shape: tuple[int, int]) -> Geometry | None:
    """The geometry of a matrix in panels; None in the plain layout and for empty matrices."""
    found = codings.panels(coding, shape) if 0 not in shape else None
    if found is None:
        return None
    group = min(found.group, max(shape[1], 1))  # a group that is longer than the row is a short one
    return Geometry(shape, group, coding.bits, found.header, found.panel_bytes, found.group_bytes(group))


def numbers(
    name: str, child: Coding | None, coding: Affine | Lookup, shape: tuple[int, int], arrays: Arrays
) -> Numbers:
    """The scales, zeros or offsets of a matrix in panels: in its headers, or decoded to (panels, groups, 16) beside."""
    found = codings.panels(coding, shape)
    assert found is not None
    if child is None:
        return Numbers(NONE, 0, 0, None)
    at = 0
    for other, role in found.beside.items():
        if other.split(".")[0] == name:
            break
        at += panel.header_bytes(role)
    if isinstance(child, Dense) and child.dtype in FLOATS:
        return Numbers(FLOATS[child.dtype], at, 0, None)
    if isinstance(child, Affine) and not child.signed and child.scales is child.zeros is child.offsets is None:
        return Numbers(PACKED, at, child.bits, None)
    values = codings.decode_child(coding, shape, arrays, name)
    padded = np.zeros((-(-shape[0] // panel.ROWS) * panel.ROWS, values.shape[1]), np.float32)
    padded[: len(values)] = values
    values = np.ascontiguousarray(padded.reshape(-1, panel.ROWS, values.shape[1]).swapaxes(1, 2))
    return Numbers(EXTERNAL, at, 0, values)


def placed(values: NDArray[Any] | None, like: torch.Tensor) -> torch.Tensor:
    """A copy of floats on the device of `like`; a single zero stands for none."""
    import torch

    given = np.zeros(1, np.float32) if values is None else np.array(values)
    if given.dtype.name == "bfloat16":  # torch takes its bits only
        return torch.from_numpy(given.view(np.int16)).view(torch.bfloat16).to(like.device)
    return torch.from_numpy(given).to(like.device)


# -- on the device -----------------------------------------------------------------------------------------------------


@triton.jit
def load_dword(p, mask, ALIGNED: tl.constexpr):
    """The little-endian dword at a byte pointer; in two halves where it may straddle a multiple of four."""
    if ALIGNED:
        dword = tl.load(p.to(tl.pointer_type(tl.uint32)), mask=mask, other=0)
    else:
        halves = p.to(tl.pointer_type(tl.uint16))
        low = tl.load(halves, mask=mask, other=0).to(tl.uint32)
        dword = low | (tl.load(halves + 1, mask=mask, other=0).to(tl.uint32) << 16)
    return dword


@triton.jit
def load_units(codes, at, mask, ALIGNED: tl.constexpr):
    """Dwords (units, 16) of units at offsets `at` in words (see `units`): sixteen neighbours, so vectors are loaded."""
    row = tl.arange(0, 16)[None, :]
    if ALIGNED:
        p = codes.to(tl.pointer_type(tl.uint32)) + at[:, None] + row
        dwords = tl.load(p, mask=mask[:, None], other=0)
    else:
        halves = codes.to(tl.pointer_type(tl.uint16)) + at[:, None] + 2 * row
        dwords = tl.load(halves, mask=mask[:, None], other=0).to(tl.uint32)
        dwords = dwords | (tl.load(halves + 1, mask=mask[:, None], other=0).to(tl.uint32) << 16)
    return dwords


@triton.jit
def load_numbers(p, row, mask, external, KIND: tl.constexpr, BITS: tl.constexpr, ALIGNED: tl.constexpr):
    """Number `row` of the sixteen at byte pointer `p`, or of those at `external`, as float32; 0 where masked."""
    if KIND == 1:
        half = tl.load((p + 2 * row).to(tl.pointer_type(tl.uint16)), mask=mask, other=0)
        value = half.to(tl.float16, bitcast=True).to(tl.float32)
    elif KIND == 2:
        half = tl.load((p + 2 * row).to(tl.pointer_type(tl.uint16)), mask=mask, other=0)
        value = (half.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    elif KIND == 3:
        value = load_dword(p + 4 * row, mask, ALIGNED).to(tl.float32, bitcast=True)
    elif KIND == 4:
        # the byte after a header is a code, so reading two is safe for the last number too
        at = row * BITS
        pair = tl.load(p + at // 8, mask=mask, other=0).to(tl.uint32)
        pair = pair | (tl.load(p + at // 8 + 1, mask=mask, other=0).to(tl.uint32) << 8)
        value = ((pair >> (at % 8).to(tl.uint32)) & ((1 << BITS) - 1)).to(tl.float32)
    else:
        value = tl.load(external + row, mask=mask, other=0.0)
    return value


@triton.jit
def store(p, value, mask):
    """Store float32 values as the element type of `p`, rounded to nearest even (the interpreter would truncate)."""
    if p.dtype.element_ty == tl.bfloat16:
        word = value.to(tl.uint32, bitcast=True)
        word = (word + 0x7FFF + ((word >> 16) & 1)) >> 16
        half = tl.where(value == value, word, 0x7FC0).to(tl.uint16).to(tl.bfloat16, bitcast=True)
        tl.store(p, half, mask=mask)
    else:
        tl.store(p, value.to(p.dtype.element_ty), mask=mask)


@triton.jit
def before_plane(inputs, PLANE: tl.constexpr, W0: tl.constexpr, W1: tl.constexpr):
    """Columns of a run of `inputs` that lie before those of a plane."""
    if PLANE == 0:
        columns = inputs * 0
    elif PLANE == 1:
        columns = (inputs * W0 + 31) // 32
    else:
        columns = (inputs * W0 + 31) // 32 + (inputs * W1 + 31) // 32
    return columns


@triton.jit
def field(
    group_at, inside, length, row, mask, PLANE: tl.constexpr, W: tl.constexpr,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """The field of one plane for input `inside` of a group of `length` inputs whose codes begin at `group_at`."""
    run = inside // 64
    here = inside % 64
    column = before_plane(tl.minimum(length - run * 64, 64), PLANE, W0, W1) + here // (32 // W)
    place = here % (32 // W)
    p = group_at + run * (128 * (W0 + W1 + W2)) + 64 * column + 4 * row
    shift = (8 * (place % 4) + W * (place // 4)).to(tl.uint32)
    return (load_dword(p, mask, ALIGNED) >> shift) & ((1 << W) - 1)


@triton.jit
def codes_at(
    group_at, inside, length, row, mask, W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, ALIGNED: tl.constexpr
):
    """Whole codes, as uint32, of inputs `inside` of groups; each weight loads its own dwords."""
    code = field(group_at, inside, length, row, mask, 0, W0, W0, W1, W2, ALIGNED)
    if W1 > 0:
        code = code | (field(group_at, inside, length, row, mask, 1, W1, W0, W1, W2, ALIGNED) << W0)
    if W2 > 0:
        code = code | (field(group_at, inside, length, row, mask, 2, W2, W0, W1, W2, ALIGNED) << (W0 + W1))
    return code


@triton.jit
def units(
    u, inputs, PLANE: tl.constexpr, W: tl.constexpr, COLUMNS: tl.constexpr,
    GROUP: tl.constexpr, GROUP_BYTES: tl.constexpr, HEADER: tl.constexpr,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, ALIGNED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Where units `u` of a plane are: (group, words from the panel's start, first input, inputs that they hold).

    A word has four bytes, or two where dwords are not aligned.
    """
    WORD: tl.constexpr = 4 if ALIGNED else 2
    group = u // COLUMNS
    column = u % COLUMNS
    run = column // (2 * W)
    inside = column % (2 * W)
    if EVEN:
        before = 128 // WORD * ((W0 if PLANE > 0 else 0) + (W1 if PLANE > 1 else 0))
        held = inside * 0 + 32 // W
    else:
        length = tl.minimum(tl.minimum(inputs - group * GROUP, GROUP) - run * 64, 64)
        before = 64 // WORD * before_plane(length, PLANE, W0, W1)
        held = length - inside * (32 // W)
    RUN: tl.constexpr = 128 * (W0 + W1 + W2)
    at = group.to(tl.int64) * (GROUP_BYTES // WORD) + HEADER // WORD
    at += run * (RUN // WORD) + before + 64 // WORD * inside
    return group, at, group * GROUP + run * 64 + inside * (32 // W), held
