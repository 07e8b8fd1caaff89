"""QLinear on a GPU: which weights have a kernel, and that its product is that of the decoded matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qformat.torch import QLinear
from qformat.torch.device import on_device, product
from qformat.torch.linear import SMALL
from tests.kernels.triton.test_panels import DEVICE
from tests.torch.test_linear import weight, written


@pytest.mark.parametrize(
    ("method", "options"),
    [("rtn", {"bits": 4, "group_size": 64}), ("hqq", {"bits": 3, "group_size": 64}), ("nf4", {"group_size": 64})],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("batch", [1, SMALL, SMALL + 1])
def test_product_is_that_of_the_decoded_matrix(
    tmp_path: Path, method: str, options: dict[str, Any], batch: int
) -> None:
    tensor = written(tmp_path / "w.qf", method, weight(40, 128), **options)
    operand = on_device(tensor, torch.device(DEVICE))
    assert operand is not None
    x = torch.randn(batch, 128)
    y = product(operand, x.to(DEVICE), SMALL)
    torch.testing.assert_close(y.cpu(), x @ torch.from_numpy(tensor.decode()).T, rtol=1e-4, atol=1e-4)


def test_a_layer_chooses_by_device(tmp_path: Path) -> None:
    """On the CPU nothing is copied; on a GPU the weight is, once, and the result is the same."""
    layer = QLinear(written(tmp_path / "w.qf", "rtn", weight(40, 128), bits=4, group_size=64))
    x = torch.randn(2, 3, 128)
    y = layer(x)
    assert layer._operands == {}
    if DEVICE == "cuda":
        torch.testing.assert_close(layer(x.cuda()).cpu(), y, rtol=1e-4, atol=1e-4)
        assert list(layer._operands) == [x.cuda().device]


def test_what_surrounds_a_coding_is_decoded(tmp_path: Path) -> None:
    tensor = written(tmp_path / "w.qf", "sinq", weight(40, 128), bits=4, group_size=64)
    assert tensor.scheme.transforms
    assert on_device(tensor, torch.device(DEVICE)) is None
