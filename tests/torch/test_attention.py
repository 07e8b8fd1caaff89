"""One new token's attention: exact to the rounding of its dtype, and everything else transformers' own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import qformat
from qformat.torch import compile_config, load_model
from qformat.torch.attention import NAME, attention, install

# For float32 torch's own kernel is asked, whose exponentials are right to some twenty bits.
EPSILON = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-18}


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    batch, groups, share, tokens, width, out = (draw(st.integers(1, most)) for most in (3, 3, 4, 40, 16, 16))
    new = draw(st.sampled_from([1, 1, 1, 2, 5]))
    dtype = draw(st.sampled_from(list(EPSILON)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    rand = lambda *shape: torch.randn(shape, generator=generator).to(dtype)  # noqa: E731
    mask = None
    if draw(st.booleans()):
        heads = draw(st.sampled_from([1, groups * share]))
        mask = torch.rand((batch, heads, new, tokens), generator=generator) < 0.7
        mask[..., 0] = True
        if draw(st.booleans()):
            mask = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    return {
        "module": SimpleNamespace(num_key_value_groups=share, is_causal=False),
        "query": rand(batch, groups * share, new, width),
        "key": rand(batch, groups, tokens, width),
        "value": rand(batch, groups, tokens, out),
        "attention_mask": mask,
        "scaling": draw(st.sampled_from([None, 0.3])),
    }


@given(calls())
def test_is_exact_to_the_rounding_of_its_dtype(call: dict[str, Any]) -> None:
    found, weights = attention(**call)
    share = call["module"].num_key_value_groups
    query, key, value = (call[name].double() for name in ("query", "key", "value"))
    key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    scale = call["scaling"] or query.shape[-1] ** -0.5
    scores = query @ key.transpose(2, 3) * scale
    mask = call["attention_mask"]
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask.double()
    exact = (scores.softmax(-1) @ value).transpose(1, 2)
    assert found.shape == exact.shape and found.dtype is call["query"].dtype and weights is None
    # with one query only the result is rounded; torch's own kernels round the weights besides
    rounding = EPSILON[found.dtype] * (1 if call["query"].shape[2] == 1 and shared(mask) else 4)
    bound = rounding * exact.abs() + rounding / 4 * value.abs().amax()
    assert ((found.double() - exact).abs() <= bound).all()


def shared(mask: torch.Tensor | None) -> bool:
    return mask is None or mask.shape[1] == 1


def test_what_it_does_not_know_is_left_to_transformers() -> None:
    x = torch.randn(1, 2, 1, 8, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="softcap"):
        attention(torch.nn.Identity(), x, x, x, None, softcap=30.0)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
        vocab_size=90, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "source")
    qformat.convert(folder / "source", folder / "model.qf", method="rtn", bits=4, group_size=32)
    return folder / "model.qf"


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_a_model_uses_it_with_every_mask(llama: Path, cache: str) -> None:
    """Padded prompts, with caches that grow and that do not: the scores that `sdpa` in float32 gives."""
    ids = torch.randint(1, 90, (3, 7), generator=torch.Generator().manual_seed(1))
    seen = torch.ones_like(ids)
    seen[0, :4], seen[1, :1] = 0, 0
    scores = {}
    for name, dtype in ((None, "bfloat16"), ("sdpa", "float32")):
        model = load_model(llama, dtype=dtype, **({"attn_implementation": name} if name else {}))
        assert model.config._attn_implementation == (name or NAME)
        done = model.generate(
            ids, attention_mask=seen, max_new_tokens=6, min_new_tokens=6, do_sample=False, output_logits=True,
            return_dict_in_generate=True, cache_implementation=cache, disable_compile=True,
        )  # fmt: skip
        scores[dtype] = torch.stack(done.logits).float()
    first = {dtype: values[:2] for dtype, values in scores.items()}  # later tokens may differ where two are close
    torch.testing.assert_close(first["bfloat16"], first["float32"], rtol=0.05, atol=0.05)


def test_one_that_looks_at_the_name_keeps_sdpa() -> None:
    tiny = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 90}
    falcon = transformers.FalconForCausalLM(transformers.FalconConfig(**tiny))
    install(falcon)
    assert falcon.config._attn_implementation == "sdpa"
    eager = transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny, attn_implementation="eager"))
    install(eager)
    assert eager.config._attn_implementation == "eager"


@pytest.mark.parametrize("extra", [{}, {"position_bias": torch.randn(1, 4, 1, 1, dtype=torch.bfloat16)}])
def test_what_is_not_one_plain_token_is_transformers_own(extra: dict[str, torch.Tensor]) -> None:
    """More tokens, and a bias of positions, as T5 has."""
    x = torch.randn(2, 4, 1 if extra else 3, 8, dtype=torch.bfloat16)
    module: Any = SimpleNamespace(num_key_value_groups=1, is_causal=True)
    expected = sdpa_attention_forward(module, x, x, x, None, **extra)[0]
    assert torch.equal(attention(module, x, x, x, None, **extra)[0], expected)


def test_steps_compile_to_one_graph(llama: Path) -> None:
    """`generate` compiles its steps where it is told to, without a break, and writes the same."""
    model = load_model(llama, dtype="float32")
    ids = torch.randint(1, 90, (1, 5), generator=torch.Generator().manual_seed(2))
    how = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": "static"}
    plain = model.generate(ids, **how)
    torch._dynamo.utils.counters.clear()
    compiled = model.generate(ids, **how, compile_config=compile_config(backend="aot_eager"))
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] >= 1 and not counted["graph_break"]
    assert torch.equal(plain, compiled)
