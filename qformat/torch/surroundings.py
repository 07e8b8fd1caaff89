"""Transforms and corrections of many rows at a time, in float32 on torch's threads: see `kernels.around`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qformat.kernels.around import Its


def array(values: NDArray[Any]) -> torch.Tensor:
    """An array of `Around`; its floats as float32."""
    return torch.from_numpy(values.astype(np.float32) if values.dtype == np.float64 else values)


def sparse_product(x: torch.Tensor, its: Its) -> torch.Tensor:
    """x (batch, K) times a CSR matrix (N, K), transposed: (batch, N). Its rows are bags of weighted rows of xᵀ."""
    found = torch.nn.functional.embedding_bag(
        its["columns"], x.T.contiguous(), its["row_pointers"][:-1], mode="sum", per_sample_weights=its["values"]
    )
    return found.T
