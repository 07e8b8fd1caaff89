"""Weights to test methods on: real ones from the two trained models of the repository, and some that look like them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from safetensors import safe_open

ROOT = Path(__file__).parents[3]


@cache
def real(columns: int) -> np.ndarray:
    """All linears of stories260K with this many inputs (64, or 172 of the down projections), one over the other."""
    with safe_open(ROOT / "tests/data/stories260K/model.safetensors", "np") as file:
        names = [name for name in file.keys() if "layers" in name and "norm" not in name]  # noqa: SIM118
        tensors = [file.get_tensor(name) for name in names]
    return np.concatenate([t for t in tensors if t.shape[1] == columns]).astype(np.float32)


@cache
def sample(columns: int) -> np.ndarray:
    """512 rows of the linears of the sample model with this many inputs (256, or 768 of the down projections)."""
    with safe_open(ROOT / "examples/sample-model/model.safetensors", "pt") as file:
        names = [name for name in file.keys() if "layers" in name and "norm" not in name]  # noqa: SIM118
        tensors = [file.get_tensor(name).float().numpy() for name in names]
    rows = np.concatenate([t for t in tensors if t.shape[1] == columns])
    return np.ascontiguousarray(rows[:: max(len(rows) // 512, 1)][:512])


def like_a_model(rows: int, columns: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    """Student-t weights of the size of a language model's, with a few outlying inputs and rows."""
    random = np.random.default_rng(seed)
    weight = random.standard_t(5, (rows, columns)) * 0.02
    weight[:, random.integers(0, columns, max(columns // 100, 1))] *= 4
    weight[random.integers(0, rows, max(rows // 50, 1))] *= 3
    return weight.astype(np.float16).astype(dtype) if dtype == np.float32 else weight.astype(dtype)


@st.composite
def matrices(draw: st.DrawFn, most: int = 150) -> np.ndarray:
    """Float32 (rows, columns) as methods see them: model-like, heavy-tailed, with groups that are constant, one-signed,
    zero, tiny, or hold one huge weight."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, most))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.02, 1.0, 3e-5, 1e-7, 1e-30, 1e-38, 1e4, 1e12, 2.0**98]))
    weight = random.standard_normal((rows, columns)) if draw(st.booleans()) else random.standard_t(2, (rows, columns))
    weight = weight * scale
    match draw(st.sampled_from(["plain", "constant", "positive", "zero", "huge", "far", "grid", "negative zero"])):
        case "constant":
            weight[draw(st.integers(0, rows - 1))] = scale
        case "positive":
            weight = np.abs(weight)
        case "zero":
            weight[draw(st.integers(0, rows - 1))] = 0
        case "huge":
            weight[0, draw(st.integers(0, columns - 1))] = draw(st.sampled_from([-1, 1])) * scale * 1000
        case "far":
            weight = weight + 300 * scale
        case "grid":
            weight = np.round(weight / scale * 2) / 2 * scale
        case "negative zero":
            weight = np.where(random.random(weight.shape) < 0.5, -0.0, 0.0)
    return np.clip(weight, -(2.0**100), 2.0**100).astype(np.float32)
