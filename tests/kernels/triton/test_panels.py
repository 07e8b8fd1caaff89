"""The Triton kernels of `affine` and `lookup` against the numpy decoder: on a GPU, or else in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qformat import codings
from qformat.codings.grammar import Lookup
from qformat.dtypes import numpy_dtype
from qformat.kernels import triton as gpu
from tests.kernels.test_operand import magnitudes
from tests.strategies import FLOATS, Coded, panel_matrices

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# |y − y64| ≤ C·√K·2⁻²⁴·Σ m·|x|, where m is |ŵ| and what is added to it on the way, as for the native kernels.
C = 4.0


def on_device(coded: Coded) -> gpu.Operand | None:
    extent = codings.pack(coded.coding, coded.shape, coded.arrays)
    places = codings.layout(coded.coding, coded.shape).places
    place = places.get("panels") or places["codes"]
    body = torch.from_numpy(extent[place.offset : place.offset + place.nbytes]).to(DEVICE)
    return gpu.prepare(coded.coding, coded.shape, codings.parts(coded.coding, coded.shape, extent), body)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


# The interpreter is slow.
FEW = settings(max_examples=25)


def check_products(coded: Coded, size: np.ndarray, batch: int, dtype: str, seed: int) -> None:
    """Products with random x are as exact as float32 sums of terms of up to `size` (N, K) times |x| can be."""
    weight = codings.decode(coded.coding, coded.shape, coded.arrays).astype(np.float64)
    operand = on_device(coded)
    assert operand is not None
    x = torch.randn(batch, coded.shape[1], generator=torch.Generator().manual_seed(seed)).to(getattr(torch, dtype))
    y = operand.matvec(x.to(DEVICE))
    assert y.dtype is torch.float32
    exact = x.double().numpy()
    bound = C * np.sqrt(coded.shape[1]) * 2.0**-24 * (np.abs(exact) @ size.T) + 1e-30
    assert (np.abs(to_numpy(y) - exact @ weight.T) <= bound).all()


def check_decoding(coded: Coded, dtype: str) -> None:
    """The kernel decodes to what the numpy decoder gives, cast."""
    operand = on_device(coded)
    assert operand is not None
    found = operand.decode(getattr(torch, dtype))
    assert found.dtype is getattr(torch, dtype)
    expected = codings.decode(coded.coding, coded.shape, coded.arrays).astype(numpy_dtype(dtype))
    np.testing.assert_array_equal(to_numpy(found), expected.astype(np.float32))


@FEW
@given(coded=panel_matrices(), batch=st.integers(1, 8), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99))
def test_products_are_within_their_bound(coded: Coded, batch: int, dtype: str, seed: int) -> None:
    weight = codings.decode(coded.coding, coded.shape, coded.arrays).astype(np.float64)
    size = np.abs(weight) if isinstance(coded.coding, Lookup) else magnitudes(coded, weight)
    check_products(coded, size, batch, dtype, seed)


@FEW
@given(coded=panel_matrices(), dtype=st.sampled_from(FLOATS))
def test_decoding_is_the_numpy_decoder(coded: Coded, dtype: str) -> None:
    check_decoding(coded, dtype)
