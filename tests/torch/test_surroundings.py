"""Rows of x through transforms and corrections, on torch's side."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from qformat import linear
from qformat.torch import QLinear
from tests.kernels.test_product import magnitude
from tests.one_tensor import saved
from tests.strategies import Linear, linears


@given(
    linears(), st.sampled_from([0, 1, 5, 9, 40, 70]), st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
)
def test_rows_are_the_product_of_the_parts(case: Linear, batch: int, dtype: torch.dtype) -> None:
    """Whatever surrounds the codes, to the rounding of weights, x and y to the dtype of x."""
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, case.shape[1], generator=generator).to(dtype)
    wide = x.double().numpy()
    size = magnitude(case, wide)
    assume(size.max(initial=0) < 6e4)  # what float16 can hold
    expected = linear.matvec(case.scheme, case.shape, case.arrays, wide, case.parameters)
    with tempfile.TemporaryDirectory() as folder:
        y = QLinear(saved(Path(folder) / "w.qf", case.scheme, case.shape, case.arrays, case.parameters))(x)
    assert y.dtype is dtype
    # W and x, or x after its transforms, and y are rounded; float16 has subnormal numbers
    bound = (3 * torch.finfo(dtype).eps + 4 * sum(case.shape) ** 0.5 * 2**-24) * size + 1e-6
    assert (np.abs(y.double().numpy() - expected) <= bound).all()
