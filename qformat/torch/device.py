"""A weight on a GPU: its stored bytes are copied there once, and Triton's kernels read them as they lie in the file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from qformat import linear
from qformat.codings.grammar import Additive, Affine, Lookup
from qformat.kernels.around import Around, around
from qformat.member import Member
from qformat.tensor import Tensor
from qformat.torch import surroundings
from qformat.torch.arrays import from_array

if TYPE_CHECKING:
    from qformat.kernels.triton import Operand


@dataclass(frozen=True)
class OnDevice:
    """A weight on a GPU: its codes, and what surrounds them."""

    operand: Operand
    around: Around


def on_device(tensor: Tensor, device: torch.device) -> OnDevice | None:
    """A weight made ready for products on `device`; None where only decoding serves: a coding or layout without a
    kernel, a member of a stack, or no triton.

    Raises:
        QFormatError: the file is damaged.
    """
    scheme, shape = tensor.scheme, tensor.matrix_shape
    if isinstance(tensor, Member) or not isinstance(scheme.coding, Affine | Lookup | Additive):
        return None
    if find_spec("triton") is None:
        return None
    from qformat.kernels import triton

    places = linear.layout(scheme, shape, tensor.parameters).places
    place = places.get("panels") or places.get("codes")
    if place is None or place.nbytes == 0:
        return None
    stored = tensor.extent()[place.offset : place.offset + place.nbytes]
    body = from_array(stored).to(device)
    coded = linear.coded_shape(scheme, shape, tensor.parameters)
    operand = triton.prepare(scheme.coding, coded, tensor.checked, body)
    if operand is None:
        return None
    surrounding = around(scheme, tensor.checked, range(shape[0]))
    return OnDevice(
        operand, surrounding.convert(lambda values: surroundings.array(values).to(device), surroundings.sparse_product)
    )


def product(weight: OnDevice, rows: torch.Tensor, small: int) -> torch.Tensor:
    """x Wᵀ for rows (n, in_features) of float32, float16 or bfloat16, in their dtype; so is what transforms make of x.

    Up to `small` rows read the codes, once for each few rows; more of them decode the whole matrix on the device, in
    the dtype of x, for one product of torch's.
    """
    its, x = weight.around, rows
    if its.inputs:
        x = its.before(rows.float()).to(rows.dtype)
    y = _coded(weight.operand, x, small)
    if its.outputs or its.corrections:
        y = its.after(y.float())
        its.correct(y, rows.float())
    return y.to(rows.dtype)


def _coded(operand: Operand, rows: torch.Tensor, small: int) -> torch.Tensor:
    """Rows times the coded matrix, in float32 or in their dtype."""
    from qformat.kernels.triton import BATCH

    if len(rows) > small:
        return rows @ operand.decode(rows.dtype).T
    parts = [operand.matvec(part) for part in rows.contiguous().split(BATCH)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
