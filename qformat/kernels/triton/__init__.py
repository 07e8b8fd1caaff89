"""The same codings on a GPU, in Triton: one file a coding. Only importing this package imports triton, and nothing here
touches a device before `prepare` is given a tensor that lies on one.

With TRITON_INTERPRET=1 in the environment before the import, everything runs on the CPU, slowly: that is how it is
tested without a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qformat.codings.grammar import Additive, Affine, Coding, Lookup
from qformat.codings.parts import Arrays
from qformat.kernels.triton import additive, affine, lookup
from qformat.kernels.triton.panels import BATCH

if TYPE_CHECKING:
    import torch

__all__ = ["BATCH", "Operand", "prepare"]


class Operand(Protocol):
    """A coded matrix (N, K) on a device."""

    def matvec(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch ≤ BATCH, K), contiguous, of float32, float16 or bfloat16: float32 (batch, N)."""

    def decode(self, dtype: torch.dtype) -> torch.Tensor:
        """The matrix as float32, float16 or bfloat16."""


def prepare(coding: Coding, shape: tuple[int, int], arrays: Arrays, body: torch.Tensor) -> Operand | None:
    """An operand over stored bytes on a device; None where only decoding on the CPU serves.

    Args:
        arrays: every role, checked.
        body: uint8, on the device: the part of the extent with the codes, as it is stored.
    """
    if isinstance(coding, Affine):
        return affine.prepare(coding, shape, arrays, body)
    if isinstance(coding, Lookup):
        return lookup.prepare(coding, shape, arrays, body)
    if isinstance(coding, Additive):
        return additive.prepare(coding, shape, arrays, body)
    return None
