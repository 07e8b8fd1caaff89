"""QLinear against the decoded matrix: codings that kernels read and that are decoded, both sides of the dispatch."""

from __future__ import annotations

import copy
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import qformat
from qformat.converters.methods import quantize
from qformat.torch import QLinear
from qformat.torch.linear import EIGHT, SMALL
from tests.one_tensor import saved


def written(path: Path, method: str, weight: NDArray[np.float32], **options: Any) -> qformat.Tensor:
    """`weight` quantized and written to a file, opened again."""
    coded = quantize(method, weight, **options)
    return saved(path, coded.scheme, weight.shape, coded.arrays, coded.parameters)


def weight(rows: int, inputs: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, inputs)).astype(np.float32)


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("rtn", {"bits": 4, "group_size": 64}),
    ("ls", {"bits": 3, "group_size": 32}),
    ("hqq", {"bits": 2, "group_size": 64}),
    ("int8", {}),
    ("nf4", {}),
    ("tail", {"bits": 4, "group_size": 64}),
    ("sinq", {"bits": 4, "group_size": 64}),
]


@given(
    method=st.sampled_from(METHODS),
    shape=st.tuples(st.integers(1, 70), st.sampled_from([1, 17, 64, 100, 172, 256])),
    batch=st.sampled_from([0, 1, 2, 7, SMALL, SMALL + 1, 40]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_product_is_that_of_the_decoded_matrix(
    method: tuple[str, dict[str, Any]],
    shape: tuple[int, int],
    batch: int,
    dtype: torch.dtype,
    bias: bool,
    seed: int,
) -> None:
    """Whatever the coding, the batch and the dtype: within the rounding of the dtype of W, of x and of the result."""
    with tempfile.TemporaryDirectory() as folder:
        tensor = written(Path(folder) / "w.qf", method[0], weight(*shape, seed), **method[1])
        decoded = torch.from_numpy(tensor.decode()).double()
        shift = torch.randn(shape[0], dtype=dtype) if bias else None
        layer = QLinear(tensor, shift)
        x = torch.randn(batch, shape[1], dtype=dtype, generator=torch.Generator().manual_seed(seed))
        y = layer(x)
        assert y.dtype is dtype
        assert y.shape == (batch, shape[0])
        expected = x.double() @ decoded.T
        # rounding of W and of the result to the dtype, and of float32 sums
        unit = torch.finfo(dtype).eps
        bound = (2 * unit + 4 * shape[1] ** 0.5 * 2**-24) * (x.double().abs() @ decoded.abs().T) + 1e-6
        if shift is not None:
            expected = expected + shift.double()
            bound = bound + 2 * unit * (shift.double().abs() + expected.abs())
        assert bool(((y.double() - expected).abs() <= bound).all())


SPEC_VECTORS = Path(__file__).parents[2] / "spec" / "vectors" / "valid"


@pytest.mark.parametrize(
    ("file", "name", "native"),
    [
        ("trellis-formats", "qtip", True),
        ("trellis", "order.exl3", True),
        ("split", "exl2", True),
        ("lattice", "quip.3", True),
        ("rotations", "paroquant", True),
        ("formats", "aqlm", True),
        ("additive-panels", "1x10", False),
    ],
)
@pytest.mark.parametrize("batch", [1, EIGHT + 1, SMALL + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codings_that_are_decoded_first(file: str, name: str, native: bool, batch: int, dtype: torch.dtype) -> None:
    """By kernels, or as their definitions say."""
    tensor = qformat.open(SPEC_VECTORS / f"{file}.qf")[name]
    assert (tensor.product.operand.native is not None) is native
    x = torch.randn(batch, tensor.shape[1], dtype=dtype, generator=torch.Generator().manual_seed(batch))
    decoded = torch.from_numpy(tensor.decode()).double()
    bound = 4 * torch.finfo(dtype).eps * (x.double().abs() @ decoded.abs().T) + 1e-4
    for mode in ("exact", "int8"):
        y = QLinear(tensor, mode=mode)(x)
        assert y.dtype is dtype
        assert bool(((y.double() - x.double() @ decoded.T).abs() <= bound).all())


def test_small_and_large_batches_agree(tmp_path: Path) -> None:
    """The two sides of the dispatch are one function."""
    layer = QLinear(written(tmp_path / "w.qf", "ls", weight(96, 256), bits=4, group_size=64))
    x = torch.randn(3 * SMALL, 256)
    torch.testing.assert_close(layer(x), torch.cat([layer(part) for part in x.split(SMALL)]), rtol=1e-4, atol=1e-4)


def test_leading_dimensions_are_kept(tmp_path: Path) -> None:
    layer = QLinear(written(tmp_path / "w.qf", "rtn", weight(10, 32), bits=8))
    assert layer(torch.zeros(2, 3, 32)).shape == (2, 3, 10)
    assert layer(torch.zeros(32)).shape == (10,)
    assert layer(torch.zeros(0, 5, 32)).shape == (0, 5, 10)


def test_int8_mode_is_close_and_chosen(tmp_path: Path) -> None:
    """`int8` rounds x to eight bits, so it differs from `exact`, by little."""
    layer = QLinear(written(tmp_path / "w.qf", "ls", weight(64, 256), bits=4, group_size=64), mode="int8")
    x = torch.randn(2, 256)
    rounded = layer(x)
    layer.mode = "exact"
    exact = layer(x)
    assert not torch.equal(rounded, exact)
    assert float((rounded - exact).norm() / exact.norm()) < 0.02
    with pytest.raises(ValueError, match="mode"):
        layer.mode = "fast"  # type: ignore[assignment]


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    tensor = written(tmp_path / "w.qf", "rtn", weight(10, 32), bits=8)
    with pytest.raises(ValueError, match="bias"):
        QLinear(tensor, torch.zeros(9))
    with pytest.raises(ValueError, match="x has shape"):
        QLinear(tensor)(torch.zeros(2, 31))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
@pytest.mark.parametrize("batch", [1, 300])
def test_numbers_that_are_no_floats_are_refused(dtype: torch.dtype, batch: int, tmp_path: Path) -> None:
    """A linear layer of torch refuses them too; weights cast to integers would be zeros."""
    layer = QLinear(written(tmp_path / "w.qf", "rtn", weight(10, 32), bits=8))
    with pytest.raises(TypeError, match="expected a float"):
        layer(torch.ones(batch, layer.in_features, dtype=dtype))


def test_gradient_flows_to_x(tmp_path: Path) -> None:
    layer = QLinear(written(tmp_path / "w.qf", "rtn", weight(10, 32), bits=8))
    x = torch.randn(4, 32, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(4, -1))


def test_decoded_weights_are_not_kept_for_gradients(tmp_path: Path) -> None:
    """They are decoded again on the way back: training beside a quantized model does not hold it decoded."""
    layer = QLinear(written(tmp_path / "w.qf", "rtn", weight(10, 32), bits=8))
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: kept[0]):
        layer(torch.randn(4, 32, requires_grad=True))
    assert kept == []


def test_the_mode_counts_where_gradients_are_recorded(tmp_path: Path) -> None:
    layer = QLinear(written(tmp_path / "w.qf", "rtn", weight(10, 256), bits=8), mode="int8")
    x = torch.randn(4, 256)
    assert torch.equal(layer(x.clone().requires_grad_()), layer(x))


@pytest.mark.parametrize("gradients", [False, True])
def test_autocast_leaves_the_dtype(gradients: bool, tmp_path: Path) -> None:
    """x keeps its dtype, whether gradients are recorded or not."""
    layer = QLinear(written(tmp_path / "w.qf", "rtn", weight(10, 32), bits=8))
    x = torch.randn(4, 32, requires_grad=gradients)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    torch.testing.assert_close(y, layer(x), rtol=1e-5, atol=1e-5)


def test_copies_map_the_file_again(tmp_path: Path) -> None:
    """Pickled and copied layers hold the path, not the weights."""
    layer = QLinear(
        written(tmp_path / "w.qf", "ls", weight(64, 256), bits=4, group_size=64), torch.randn(64), mode="int8"
    )
    x = torch.randn(1, 256)
    sent = pickle.dumps(layer)
    assert len(sent) < 4000
    for other in (pickle.loads(sent), copy.deepcopy(layer)):
        assert other.mode == "int8"
        torch.testing.assert_close(other(x), layer(x))


def test_compiles_to_one_graph(tmp_path: Path) -> None:
    """torch.compile sees a custom op with a known result: no graph break."""
    layer = QLinear(written(tmp_path / "w.qf", "ls", weight(64, 256), bits=4, group_size=64), torch.randn(64))
    model = torch.nn.Sequential(layer, torch.nn.ReLU())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for batch in (1, 40):
            x = torch.randn(batch, 256)
            torch.testing.assert_close(compiled(x), model(x))


def test_compiled_layers_have_gradients(tmp_path: Path) -> None:
    """Those of the layer that is not compiled, and theirs: not None, as an op without a rule would leave them."""
    layer = QLinear(written(tmp_path / "w.qf", "rtn", weight(10, 32), bits=8), torch.randn(10))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    made = []
    for function in (layer, compiled):
        x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        function(x).square().sum().backward()
        made.append(x.grad)
    assert made[0] is not None
    torch.testing.assert_close(made[1], made[0], rtol=1e-4, atol=1e-4)

    def op(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.qformat.linear(x, layer._number, 10)
        return y

    x = torch.randn(3, 32, requires_grad=True)
    rows = torch.randn(3, 10, requires_grad=True)
    (grad,) = torch.autograd.grad(op(x), x, rows, create_graph=True)
    (twice,) = torch.autograd.grad(grad.sum(), rows)
    torch.testing.assert_close(twice, layer.weight.sum(1).expand(3, -1), rtol=1e-4, atol=1e-5)


def test_tangents_and_transforms_pass_through(tmp_path: Path) -> None:
    """Forward-mode derivatives are not lost, and the transforms of `torch.func` work."""
    layer = QLinear(written(tmp_path / "w.qf", "rtn", weight(10, 32), bits=8))
    x, tangent = torch.randn(3, 32), torch.randn(3, 32)
    expected = tangent @ layer.weight.T
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, tangent))).tangent
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.func.jvp(layer, (x,), (tangent,))[1], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.func.jacfwd(layer)(x[0]), layer.weight)


@pytest.mark.parametrize("batch", [1, 9, 300])
def test_what_watches_operations_sees_the_layer(batch: int, tmp_path: Path) -> None:
    """Fake tensors have no memory to compute with; a graph without the layer hands out memory that nobody wrote."""
    layer = QLinear(written(tmp_path / "w.qf", "rtn", weight(10, 32), bits=8))
    with FakeTensorMode():
        assert layer(torch.empty(batch, 32)).shape == (batch, 10)
    graph = make_fx(layer)(torch.randn(batch, 32))
    x = torch.randn(batch, 32)
    torch.testing.assert_close(graph(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_layer_computes(tmp_path: Path) -> None:
    """Tracing sees the custom op; the native call alone would leave a constant that nobody has written."""
    layer = QLinear(written(tmp_path / "w.qf", "rtn", weight(48, 64), bits=4))
    traced = torch.jit.trace(layer, torch.randn(1, 64))
    x = torch.randn(1, 64)
    torch.testing.assert_close(traced(x), layer(x))
