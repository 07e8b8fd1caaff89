"""Slabs put together are the tensor coded at once, whatever the method, the slab, the workers and the memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from qformat import linear
from qformat.converters import plan as planning
from qformat.converters.encode import Encoded, Encoder, relative_error
from qformat.converters.methods import METHODS, quantize
from qformat.converters.plan import make_plan
from qformat.converters.recipe import make_recipe
from qformat.converters.sources import open_source
from qformat.converters.workers import Inline
from tests.converters.checkpoints import save

VARIANTS = [(name, {}) for name in METHODS] + [
    ("rtn", {"bits": 3, "symmetric": True}),
    ("rtn", {"bits": 5, "group_size": 20}),
    ("nf4", {"double_quant": True}),
    ("fp4", {"double_quant": True, "group_size": 128}),
    ("ls", {"bits": 2, "group_size": "row"}),
]


def encode(
    tmp_path: Path, weight: np.ndarray, method: str, options: dict, workers: int = 1, memory: int = 2**30
) -> Encoded:
    path = save(tmp_path / "x.safetensors", {"layers.0.up_proj.weight": weight})
    plan = make_plan(open_source(path), make_recipe(None, method=method, **options))
    pool = Inline() if workers == 1 else ThreadPoolExecutor(workers)
    with pool:
        encoder = Encoder(pool, plan.items, window=3, between=lambda *_: None, directory=tmp_path, memory=memory)
        return encoder.encode(plan.items[0])


def extent(encoded: Encoded) -> bytes:
    assert encoded.assembly is not None
    return b"".join(bytes(chunk) for chunk in encoded.assembly.chunks())


@pytest.mark.parametrize(("method", "options"), VARIANTS)
@pytest.mark.parametrize("shape", [(200, 128), (97, 172)])
def test_slabs_make_the_whole(
    method: str, options: dict, shape: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = (np.random.default_rng(1).standard_normal(shape, np.float32) * 0.1).astype(ml_dtypes.bfloat16)
    resolved = METHODS[method].resolve(make_recipe(None, method=method, **options).choice(None)[1])
    whole = quantize(method, weight, **resolved)
    expected = linear.pack(whole.scheme, shape, whole.arrays, whole.parameters).tobytes()
    for slab, workers, memory in ((2**21, 1, 2**30), (1, 1, 2**30), (6000, 2, 0)):
        monkeypatch.setattr(planning, "SLAB_WEIGHTS", slab)
        encoded = encode(tmp_path, weight, method, options, workers, memory)
        assert encoded.scheme == whole.scheme
        assert encoded.parameters == whole.parameters
        assert extent(encoded) == expected
        assert encoded.error == pytest.approx(whole.error, rel=1e-12)
        assert encoded.max_error == whole.max_error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.safetensors"]


@pytest.mark.parametrize("scale", [1e-8, 1e7])
@pytest.mark.parametrize("method", ["rtn", "ls", "hqq"])
@pytest.mark.parametrize("nonfinite", ["refuse", "zero", "clamp"])
def test_scales_that_float16_does_not_hold(
    scale: float, method: str, nonfinite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slabs are coded on the guess of float16; a slab late in the tensor refutes it for all."""
    weight = np.random.default_rng(2).standard_normal((200, 64), np.float32)
    weight[190] *= scale
    weight[:16] *= scale
    if scale < 1:
        weight *= scale
    if nonfinite != "refuse":
        weight[100, 7] = np.inf
    whole = quantize(method, weight, nonfinite=nonfinite)
    monkeypatch.setattr(planning, "SLAB_WEIGHTS", 1)
    encoded = encode(tmp_path, weight, method, {"nonfinite": nonfinite}, 2)
    assert encoded.dense_because is None
    assert encoded.scheme == whole.scheme
    assert extent(encoded) == linear.pack(whole.scheme, weight.shape, whole.arrays, whole.parameters).tobytes()


def test_nonfinite_weights_leave_the_tensor_dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SLAB_WEIGHTS", 1)
    weight = np.ones((64, 64), np.float16)
    weight[40, 3], weight[41, 4], weight[63, 63] = np.nan, np.inf, -np.inf
    for method in METHODS:
        encoded = encode(tmp_path, weight, method, {})
        assert encoded.dense_because is not None
        assert encoded.nonfinite == (1, 2)
        assert encoded.assembly is None
    encoded = encode(tmp_path, weight, "rtn", {"nonfinite": "zero"})
    assert encoded.nonfinite == (1, 2)
    assert encoded.assembly is not None


def test_an_error_is_relative_to_the_norm_of_what_was_coded() -> None:
    rows = np.array([[3.0, 40.0, 0.5], [6.0, 60.0, 1.5]])  # squared error, squared norm, largest error
    assert relative_error(rows) == (0.3, 1.5)
    assert relative_error(np.zeros((2, 3))) == (0.0, 0.0)
    assert relative_error(np.array([[1.0, 0.0, 1.0]])) == (1.0, 1.0)  # all of it, where there was nothing
