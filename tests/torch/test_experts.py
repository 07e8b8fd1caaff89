"""Mixtures of experts from the file against the decoded weights in transformers' own modules."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import qformat
from qformat.torch import QExperts, QLinear, load_model, set_mode
from qformat.torch.experts import Turned
from qformat.torch.renamed import Renamed

COMMON: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 90,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip

# A matrix an expert in the file (w1, w2, w3; gate_proj, …), one tensor for all, that (in, out) and with biases, and a
# class that has rows sorted by expert.
MIXTURES: dict[str, tuple[type[Any], Any]] = {
    "mixtral": (
        transformers.MixtralForCausalLM,
        transformers.MixtralConfig(**COMMON, intermediate_size=96, num_local_experts=12, num_experts_per_tok=2),
    ),
    "qwen2": (
        transformers.Qwen2MoeForCausalLM,
        transformers.Qwen2MoeConfig(
            **COMMON, intermediate_size=96, moe_intermediate_size=32, shared_expert_intermediate_size=32, num_experts=4,
            num_experts_per_tok=2,
        ),
    ),
    "qwen3": (
        transformers.Qwen3MoeForCausalLM,
        transformers.Qwen3MoeConfig(
            **COMMON, head_dim=16, intermediate_size=96, moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2,
            decoder_sparse_step=1,
        ),
    ),
    "deepseek": (
        transformers.DeepseekV3ForCausalLM,
        transformers.DeepseekV3Config(
            **COMMON | {"num_key_value_heads": 4}, intermediate_size=96, moe_intermediate_size=32, n_routed_experts=4,
            num_experts_per_tok=2, n_group=2, topk_group=1, n_shared_experts=1, first_k_dense_replace=1,
            kv_lora_rank=32, q_lora_rank=32, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=16,
        ),
    ),
    "granite": (
        transformers.GraniteMoeForCausalLM,
        transformers.GraniteMoeConfig(**COMMON, intermediate_size=32, num_local_experts=4, num_experts_per_tok=2),
    ),
    "gpt-oss": (
        transformers.GptOssForCausalLM,
        transformers.GptOssConfig(
            **COMMON, head_dim=16, intermediate_size=96, num_local_experts=4, num_experts_per_tok=2,
            layer_types=["full_attention", "sliding_attention"],
        ),
    ),
    "llama4": (
        transformers.Llama4ForCausalLM,
        transformers.Llama4TextConfig(
            **COMMON, head_dim=16, intermediate_size=32, intermediate_size_mlp=96, num_local_experts=4,
            num_experts_per_tok=1, interleave_moe_layer_step=1,
        ),
    ),
}  # fmt: skip


def saved(folder: Path, kind: str) -> tuple[Any, Path]:
    """A random model and its checkpoint; biases are not left zero."""
    torch.manual_seed(0)
    cls, config = MIXTURES[kind]
    model = cls(copy.deepcopy(config)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data = 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model, folder


def decoded(kind: str, path: Path) -> Any:
    """The weights of a file through transformers' own loader."""
    cls, config = MIXTURES[kind]
    with qformat.open(path) as file:
        state = {name: torch.from_numpy(tensor.decode()) for name, tensor in file.items()}
    return cls.from_pretrained(None, config=copy.deepcopy(config), state_dict=state, dtype="float32").eval()


def tokens() -> torch.Tensor:
    return torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", MIXTURES)
def test_experts_stay_in_the_file(kind: str, tmp_path: Path) -> None:
    """The logits of the decoded weights, generation included, and no dense parameter of experts."""
    model, folder = saved(tmp_path / "source", kind)
    path = tmp_path / "model.qf"
    qformat.convert(folder, path, method="rtn", bits=8, group_size=32)
    loaded = load_model(path, dtype="float32")
    assert any(isinstance(module, QExperts) for module in loaded.modules())
    dense = [name for name, its in loaded.named_parameters() if "experts" in name and its.ndim > 1]
    assert all(name.endswith("bias") or "shared" in name for name in dense), dense
    reference = decoded(kind, path)
    ids = tokens()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, reference(ids).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-6)
        ours = loaded.generate(ids, max_new_tokens=6, do_sample=False)
        assert torch.equal(ours, reference.generate(ids, max_new_tokens=6, do_sample=False))


@pytest.mark.parametrize("residency", ["mmap", "hugepages"])
def test_stacks_coded_the_other_way_round_are_decoded_expert_by_expert(residency: Any, tmp_path: Path) -> None:
    """A rule may have codes run along the outputs; there is no parameter of all experts either way."""
    _, folder = saved(tmp_path / "source", "gpt-oss")
    rules = [{"match": "*.experts.gate_up_proj", "axis": "out_in"}]
    qformat.convert(folder, tmp_path / "model.qf", recipe={"method": "rtn", "bits": 8, "rules": rules})
    loaded = load_model(tmp_path / "model.qf", dtype="float32", residency=residency)
    layer = experts_of(loaded)
    assert isinstance(layer.up[0], Turned)
    assert isinstance(layer.down[0], QLinear)
    assert not any(its.ndim == 3 for its in loaded.parameters())
    with torch.no_grad():
        expected = decoded("gpt-oss", tmp_path / "model.qf")(tokens()).logits
        torch.testing.assert_close(loaded(tokens()).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixtral")
    saved(folder / "source", "mixtral")
    qformat.convert(folder / "source", folder / "model.qf", method="rtn", bits=4, group_size=32)
    return folder / "model.qf"


def experts_of(model: nn.Module) -> QExperts:
    return next(module for module in model.modules() if isinstance(module, QExperts))


def routed(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, the experts of each, and their weights."""
    torch.manual_seed(2)
    return torch.randn(5, 64, dtype=dtype), torch.randint(12, (5, 2)), torch.rand(5, 2)


def test_only_routed_experts_are_made_ready(mixtral: Path) -> None:
    """An expert that no row goes to is not even prepared, so its pages of the file are not touched."""
    layer = experts_of(load_model(mixtral, dtype="float32"))
    x, index, weights = routed()
    layer(x, torch.full_like(index, 7), weights)
    ready = [number for number, down in enumerate(layer.down) if "product" in vars(down.tensor)]
    assert ready == [7]


def test_copies_map_the_file_again(mixtral: Path) -> None:
    """As QLinear does: what is copied, pickled or sent to another dtype computes the same from the same file."""
    layer = experts_of(load_model(mixtral, dtype="float32"))
    x, index, weights = routed()
    sent = pickle.dumps(layer)
    assert len(sent) < mixtral.stat().st_size / 4
    with torch.no_grad():
        for other in (pickle.loads(sent), copy.deepcopy(layer), layer.to(torch.float64)):
            assert other._number != layer._number or other is layer
            torch.testing.assert_close(other(x, index, weights), layer(x, index, weights))
        half = layer(x.bfloat16(), index, weights)
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), layer(x, index, weights), rtol=0.03, atol=0.003)


def test_compiles_to_one_graph(mixtral: Path) -> None:
    layer = experts_of(load_model(mixtral, dtype="float32"))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*routed()), layer(*routed()))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo asks every tensor for it
def test_compiled_experts_have_gradients(mixtral: Path) -> None:
    """Those of the experts that are not compiled, though the graph breaks for them."""
    layer = experts_of(load_model(mixtral, dtype="float32"))
    made = []
    for function in (layer, torch.compile(layer, backend="aot_eager")):
        x, index, weights = routed()
        weights.requires_grad_()
        function(x, index, weights).square().sum().backward()
        made.append(weights.grad)
    assert made[0] is not None
    torch.testing.assert_close(made[1], made[0], rtol=1e-4, atol=1e-5)


def test_modes_and_gradients_reach_the_experts(mixtral: Path) -> None:
    model = load_model(mixtral, dtype="float32")
    layer = experts_of(model)
    set_mode(model, "int8")
    assert {part.mode for part in layer.modules() if isinstance(part, QLinear)} == {"int8"}
    x, index, weights = routed()
    x.requires_grad_()
    weights.requires_grad_()
    layer(x, index, weights).sum().backward()
    assert x.grad is not None
    assert weights.grad is not None
    assert bool((x.grad != 0).all())


def test_dense_experts_are_views_of_the_mapping(tmp_path: Path) -> None:
    """Experts that a recipe leaves dense are not copied together either."""
    _, folder = saved(tmp_path / "source", "mixtral")
    rules = [{"match": "*.experts.*", "skip": True}]
    qformat.convert(folder, tmp_path / "model.qf", recipe={"method": "rtn", "rules": rules})
    loaded = load_model(tmp_path / "model.qf", dtype="float32")
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    mapped = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines]
    for down in experts_of(loaded).down:
        assert any(low <= down.weight.data_ptr() < high for low, high in mapped)
    with torch.no_grad():
        expected = decoded("mixtral", tmp_path / "model.qf")(tokens()).logits
        torch.testing.assert_close(loaded(tokens()).logits, expected, rtol=1e-4, atol=1e-4)


def test_other_modules_get_them_put_together(tmp_path: Path) -> None:
    """What a module needs as one parameter is what transformers' own loader makes of the matrices."""
    model, folder = saved(tmp_path / "source", "mixtral")
    qformat.convert(folder, tmp_path / "model.qf", method="rtn", bits=4, group_size=32)
    expected = decoded("mixtral", tmp_path / "model.qf").state_dict()
    with qformat.open(tmp_path / "model.qf") as file:
        renamed = Renamed(model, file)
        for name in ("model.layers.1.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"):
            made = renamed.assemble(name, torch.float32)
            assert made is not None
            assert torch.equal(made[0], expected[name])
            assert all(part in file for part in made[1])
