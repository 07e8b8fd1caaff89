"""QLinear on a GPU: which weights have a kernel, and that its product is that of the decoded matrix."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qformat import linear
from qformat.kernels.operand import Codes, Panels
from qformat.torch import QLinear
from qformat.torch.device import on_device, product
from qformat.torch.linear import SMALL
from tests.kernels.test_product import magnitude
from tests.kernels.triton.test_panels import DEVICE
from tests.one_tensor import saved
from tests.strategies import Linear, linears
from tests.torch.test_linear import weight, written


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("rtn", {"bits": 4, "group_size": 64}),
        ("hqq", {"bits": 3, "group_size": 64}),
        ("nf4", {"group_size": 64}),
        ("sinq", {"bits": 4, "group_size": 64}),
        ("tail", {"bits": 4, "group_size": 64}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("batch", [1, SMALL, SMALL + 1])
def test_product_is_that_of_the_decoded_matrix(
    tmp_path: Path, method: str, options: dict[str, Any], batch: int
) -> None:
    tensor = written(tmp_path / "w.qf", method, weight(40, 128), **options)
    on_gpu = on_device(tensor, torch.device(DEVICE))
    assert on_gpu is not None
    x = torch.randn(batch, 128)
    y = product(on_gpu, x.to(DEVICE), SMALL)
    torch.testing.assert_close(y.cpu(), x @ torch.from_numpy(tensor.decode()).T, rtol=1e-4, atol=1e-4)


def test_a_layer_chooses_by_device(tmp_path: Path) -> None:
    """On the CPU nothing is copied; on a GPU the weight is, once, and the result is the same."""
    layer = QLinear(written(tmp_path / "w.qf", "rtn", weight(40, 128), bits=4, group_size=64))
    x = torch.randn(2, 3, 128)
    y = layer(x)
    assert layer._on_devices == {}
    if DEVICE == "cuda":
        torch.testing.assert_close(layer(x.cuda()).cpu(), y, rtol=1e-4, atol=1e-4)
        assert list(layer._on_devices) == [x.cuda().device]


@settings(max_examples=20)
@given(linears(), st.sampled_from([1, 5]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_rows_are_the_product_of_the_parts(case: Linear, batch: int, dtype: torch.dtype) -> None:
    """Whatever surrounds the codes, to the rounding of W, x, transformed x and y to the dtype of x."""
    x = torch.randn(batch, case.shape[1], generator=torch.Generator().manual_seed(batch)).to(dtype)
    wide = x.double().numpy()
    size = magnitude(case, wide)
    with tempfile.TemporaryDirectory() as folder:
        tensor = saved(Path(folder) / "w.qf", case.scheme, case.shape, case.arrays, case.parameters)
        on_gpu = on_device(tensor, torch.device(DEVICE))
        if on_gpu is None:
            assert not isinstance(tensor.product.operand.native, Panels | Codes)  # those that both have kernels for
            return
        y = product(on_gpu, x.to(DEVICE), SMALL).cpu()
    assert y.dtype is dtype
    expected = linear.matvec(case.scheme, case.shape, case.arrays, wide, case.parameters)
    bound = (3 * torch.finfo(dtype).eps + 4 * sum(case.shape) ** 0.5 * 2**-24) * size + 1e-6
    assert (np.abs(y.double().numpy() - expected) <= bound).all()
