"""Whole models: what runs from the file is what the decoded weights would run."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

import qformat
from qformat.errors import UnsupportedError
from qformat.torch import QEmbedding, QLinear, load_model, load_tokenizer, set_mode

STORIES = Path(__file__).parents[1] / "data" / "stories260K"

# Model classes with the shapes that make loading hard: Conv1D, tied and untied heads, encoders, biases.
TINY: dict[str, tuple[type[Any], Any]] = {
    "bert": (
        transformers.BertModel,
        transformers.BertConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, vocab_size=90,
            max_position_embeddings=32,
        ),
    ),
    "bert with head": (
        transformers.BertForMaskedLM,
        transformers.BertConfig(
            hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=96, vocab_size=90,
            max_position_embeddings=32,
        ),
    ),
    "gpt2": (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(
            n_embd=64, n_layer=2, n_head=4, vocab_size=90, n_positions=32, bos_token_id=0, eos_token_id=0
        ),
    ),
    "falcon": (
        transformers.FalconForCausalLM,
        transformers.FalconConfig(
            hidden_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=90, bias=True, bos_token_id=0,
            eos_token_id=0,
        ),
    ),
    "llama untied": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=172,
            vocab_size=90, tie_word_embeddings=False, attention_bias=True,
        ),
    ),
    "llama tied": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            hidden_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
            vocab_size=90, tie_word_embeddings=True, rope_theta=5000.0,
        ),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stories") / "stories.qf"
    qformat.convert(STORIES, path, method="ls", bits=4)
    return path


def saved(folder: Path, kind: str) -> tuple[nn.Module, Path]:
    """A random model of TINY and its checkpoint."""
    torch.manual_seed(0)
    cls, config = TINY[kind]
    model = cls(copy.deepcopy(config)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms and biases start at 1 and 0, which would hide that they are lost
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model, folder


def with_decoded_weights(model: nn.Module, path: Path) -> nn.Module:
    """The model as torch knows it, with the weights that the file decodes to."""
    with qformat.open(path) as file:
        state = {name: torch.from_numpy(tensor.decode()) for name, tensor in file.items()}
    wanted = model.state_dict().keys()
    prefix = f"{model.base_model_prefix}."  # type: ignore[operator]
    state = {name if name in wanted else prefix + name: value for name, value in state.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert {name.split(".")[-2] for name in missing} <= {"lm_head", "decoder", "predictions"}  # the tied heads
    model.tie_weights()  # type: ignore[operator]
    return model


def quantized(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, QLinear)]


@pytest.mark.parametrize("kind", TINY)
def test_runs_as_the_decoded_weights_do(kind: str, tmp_path: Path) -> None:
    """Same outputs, for every kind of architecture, and nothing that could be a QLinear is left dense."""
    model, folder = saved(tmp_path / "source", kind)
    path = tmp_path / "model.qf"
    qformat.convert(folder, path, method="rtn", bits=4, group_size=32)
    loaded = load_model(path, dtype="float32")
    assert type(loaded) is type(model)
    assert not any(value.is_meta for value in (*loaded.parameters(), *loaded.buffers()))
    with qformat.open(path) as file:
        coded = [name for name, tensor in file.items() if tensor.coding != "dense"]
    assert len(quantized(loaded)) == len(coded)
    assert not any(isinstance(module, Conv1D) for module in loaded.modules())

    reference = with_decoded_weights(model, path)
    ids = torch.randint(90, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids)[0], reference(ids)[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(loaded(ids[:1, :3])[0], reference(ids[:1, :3])[0], rtol=1e-4, atol=1e-4)


def test_stories_write_the_same(stories: Path) -> None:
    """A trained model goes on with the same words as its decoded weights."""
    loaded = load_model(stories, dtype="float32")
    dense = transformers.AutoModelForCausalLM.from_pretrained(STORIES, dtype="float32").eval()
    reference = with_decoded_weights(dense, stories)
    ids = load_tokenizer(stories)("Once upon a time", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, reference(ids).logits, rtol=1e-4, atol=1e-4)
        ours = loaded.generate(ids, max_new_tokens=20, do_sample=False)
        assert torch.equal(ours, reference.generate(ids, max_new_tokens=20, do_sample=False))


@pytest.mark.parametrize(
    ("dtype", "mode", "bound"), [("float32", "exact", 1e-5), ("bfloat16", "exact", 0.03), ("float32", "int8", 0.03)]
)
def test_every_step_follows_the_decoded_weights(stories: Path, dtype: str, mode: Any, bound: float) -> None:
    """Token by token with the cache, where one row of x goes through the kernels: relative error of all logits.

    bfloat16 has eight bits of mantissa, and `int8` rounds each x to eight bits; five layers add up to a few of those.
    """
    loaded = load_model(stories, dtype=dtype, mode=mode)
    dense = transformers.AutoModelForCausalLM.from_pretrained(STORIES, dtype="float32").eval()
    reference = with_decoded_weights(dense, stories)
    ids = load_tokenizer(stories)("Once upon a time there was a little girl", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = reference(ids).logits[0]
        out, steps = None, []
        for token in ids[0]:
            past = None if out is None else out.past_key_values
            out = loaded(input_ids=token.view(1, 1), past_key_values=past, use_cache=True)
            steps.append(out.logits[0, -1].float())
    errors = (torch.stack(steps) - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(errors.max()) < bound


def test_tied_weights_are_one(tmp_path: Path) -> None:
    _, folder = saved(tmp_path / "source", "llama tied")
    qformat.convert(folder, tmp_path / "model.qf")
    loaded = load_model(tmp_path / "model.qf")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_a_coded_tied_weight_serves_both(tmp_path: Path) -> None:
    """An embedding that a recipe quantizes is looked up row by row, and multiplied with as the head: no dense copy."""
    model, folder = saved(tmp_path / "source", "llama tied")
    rule = {"match": "*embed_tokens.weight", "method": "rtn", "bits": 8}
    qformat.convert(folder, tmp_path / "model.qf", recipe={"rules": [rule]})
    loaded = load_model(tmp_path / "model.qf", dtype="float32")
    assert isinstance(loaded.lm_head, QLinear)
    assert isinstance(loaded.model.embed_tokens, QEmbedding)
    assert loaded.lm_head.tensor is loaded.model.embed_tokens.tensor
    reference = with_decoded_weights(model, tmp_path / "model.qf")
    ids = torch.randint(90, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids)[0], reference(ids)[0], rtol=1e-4, atol=1e-4)


def test_a_model_with_coded_embeddings_changes_its_dtype(tmp_path: Path) -> None:
    """Rows of the embedding follow the parameters, which they meet in the first norm."""
    _, folder = saved(tmp_path / "source", "llama tied")
    qformat.convert(folder, tmp_path / "model.qf", recipe={"rules": [{"match": "*embed*", "method": "rtn", "bits": 8}]})
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = load_model(tmp_path / "model.qf", dtype="bfloat16")(ids)[0]
        found = load_model(tmp_path / "model.qf", dtype="float32").to(torch.bfloat16)(ids)[0]
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


SCALED: dict[str, tuple[type[Any], Any]] = {
    "gemma": (
        transformers.GemmaForCausalLM,
        transformers.GemmaConfig(
            hidden_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            intermediate_size=96, vocab_size=90, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        ),
    ),
    "bart": (
        transformers.BartForConditionalGeneration,
        transformers.BartConfig(
            d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=96, decoder_ffn_dim=96, vocab_size=90, max_position_embeddings=40, scale_embedding=True,
            bos_token_id=0, eos_token_id=1, pad_token_id=2, decoder_start_token_id=1, forced_eos_token_id=1,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", SCALED)
def test_embeddings_that_scale_their_rows_stay_coded(kind: str, dtype: str, tmp_path: Path) -> None:
    """Gemma's and BART's embeddings multiply what they look up; encoder, decoder and head share one coded weight."""
    torch.manual_seed(0)
    cls, config = SCALED[kind]
    cls(copy.deepcopy(config)).save_pretrained(tmp_path / "source")
    name = "*embed_tokens.weight" if kind == "gemma" else "*shared.weight"
    recipe = {"method": "rtn", "bits": 8, "rules": [{"match": name, "method": "rtn"}]}
    qformat.convert(tmp_path / "source", tmp_path / "model.qf", recipe=recipe)
    loaded = load_model(tmp_path / "model.qf", dtype=dtype)
    embeddings = [module for module in loaded.modules() if isinstance(module, QEmbedding)]
    assert embeddings
    assert isinstance(loaded.lm_head, QLinear)
    assert {module.tensor for module in embeddings} == {loaded.lm_head.tensor}
    with qformat.open(tmp_path / "model.qf") as file:
        state = {name: torch.from_numpy(tensor.decode()) for name, tensor in file.items()}
    reference = cls.from_pretrained(None, config=copy.deepcopy(config), state_dict=state, dtype=dtype).eval()
    ids = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for ours, theirs in (
            (loaded.get_input_embeddings()(ids), reference.get_input_embeddings()(ids)),
            (pickle.loads(pickle.dumps(embeddings[-1]))(ids), reference.get_input_embeddings()(ids)),
        ):
            assert torch.equal(ours, theirs)
        bound = 1e-4 if dtype == "float32" else 0.03
        torch.testing.assert_close(loaded(ids)[0], reference(ids)[0], rtol=bound, atol=bound)


def test_residency_is_chosen(stories: Path) -> None:
    """On huge pages the kernels read copies of the same bytes."""
    ids = torch.arange(1, 9)[None]
    mapped, copied = (load_model(stories, residency=residency) for residency in ("mmap", "hugepages"))
    assert copied.model.layers[0].mlp.up_proj.tensor._model.residency == "hugepages"
    with torch.no_grad():
        assert torch.equal(mapped(ids).logits, copied(ids).logits)


def test_dense_weights_are_views_of_the_mapping(stories: Path) -> None:
    """In the file's own dtype nothing is copied: the parameter lies inside of the mapped file."""
    loaded = load_model(stories, dtype=None if "bfloat16" in str(_dtype(stories)) else _dtype(stories))
    address = loaded.model.embed_tokens.weight.data_ptr()
    inside = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(stories) in line]
    ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in inside]
    assert any(low <= address < high for low, high in ranges)


def _dtype(path: Path) -> str:
    with qformat.open(path) as file:
        return next(tensor.dtype for tensor in file.values() if len(tensor.shape) == 2)


def test_modes_are_set_together(stories: Path) -> None:
    loaded = load_model(stories, mode="int8")
    layers = [module for module in loaded.modules() if isinstance(module, QLinear)]
    assert {layer.mode for layer in layers} == {"int8"}
    set_mode(loaded, "exact")
    assert {layer.mode for layer in layers} == {"exact"}


def edited(stories: Path, tmp_path: Path, config: bytes | None) -> Path:
    """A file with nothing but another config."""
    from qformat import container

    with container.create(tmp_path / "edited.qf") as writer:
        if config is not None:
            writer.attachment("config.json", config)
        writer.finish({})
    return tmp_path / "edited.qf"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no such attachment"),
        (b"{", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'{"model_type": "evil", "auto_map": {"AutoModel": "evil--evil.Model"}}', "transformers has no such model"),
        (b'{"model_type": "llama", "architectures": ["Trainer"], "num_hidden_layers": 1}', "lacks weights"),
        (b'{"model_type": "llama", "dtype": "evil"}', "transformers refuses it"),
        (b'{"model_type": "llama", "hidden_size": "large"}', "transformers refuses it"),
    ],
)
def test_hostile_configs_are_refused(stories: Path, tmp_path: Path, config: bytes | None, message: str) -> None:
    """No code of a checkpoint runs, and a config only selects a class that transformers has."""
    with pytest.raises(UnsupportedError, match=message):
        load_model(edited(stories, tmp_path, config))


def test_a_checkpoint_without_its_weights_is_not_written(stories: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="qformat export"):
        load_model(stories).save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{}, {"dtype": None}, {"dtype": "auto"}, {"torch_dtype": "auto"}])
def test_the_dtype_is_the_configs_unless_named(options: dict[str, Any], stories: Path) -> None:
    assert load_model(stories, **options).dtype == torch.float16
    for named in ({"dtype": "float32"}, {"dtype": torch.float32}, {"torch_dtype": "float32"}):
        assert load_model(stories, **named).dtype == torch.float32
    with pytest.raises(UnsupportedError, match="no such dtype"):
        load_model(stories, dtype="float31")


def test_without_one_in_the_config_it_is_that_of_the_weights(tmp_path: Path) -> None:
    model, folder = saved(tmp_path / "source", "llama untied")
    model.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[operator]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if "dtype" not in key}))
    qformat.convert(folder, tmp_path / "model.qf")
    assert load_model(tmp_path / "model.qf").dtype == torch.bfloat16


def test_changes_go_where_transformers_sends_them(stories: Path, tmp_path: Path) -> None:
    """To the config where it has the name, else to the model, which knows what it does not take."""
    loaded = load_model(stories, attn_implementation="eager", use_cache=False)
    assert loaded.config._attn_implementation == "eager"
    assert loaded.config.use_cache is False
    for unknown in ({"device_map": "cpu"}, {"use_cahce": False}):
        with pytest.raises(TypeError, match=next(iter(unknown))):
            load_model(stories, **unknown)
    _, folder = saved(tmp_path / "source", "bert")
    qformat.convert(folder, tmp_path / "bert.qf")
    with pytest.warns(UserWarning, match=r"2 weights have no place in BertModel: .*pooler\.dense"):
        assert load_model(tmp_path / "bert.qf", add_pooling_layer=False).pooler is None


def test_weights_without_a_place_are_told(stories: Path) -> None:
    with pytest.warns(UserWarning, match=r"stories\.qf: 9 weights have no place in LlamaForCausalLM: model\.layers\.4"):
        load_model(stories, num_hidden_layers=4)


def test_a_file_that_is_open_serves_several_models(stories: Path) -> None:
    with qformat.open(stories) as file:
        first, second = load_model(file), load_model(file)
        assert first.model.layers[0].mlp.up_proj.tensor is second.model.layers[0].mlp.up_proj.tensor
        ids = torch.arange(1, 9)[None]
        with torch.no_grad():
            assert torch.equal(first(ids).logits, second(ids).logits)
        with pytest.raises(ValueError, match="the file is open with 'mmap'"):
            load_model(file, residency="hugepages")
    with qformat.open(stories, residency="hugepages") as file:
        assert load_model(file).model.layers[0].mlp.up_proj.tensor._model.residency == "hugepages"


def test_a_chat_template_of_its_own_comes_along(tmp_path: Path) -> None:
    shutil.copytree(STORIES, tmp_path / "source")
    (tmp_path / "source" / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    qformat.convert(tmp_path / "source", tmp_path / "model.qf", method="rtn")
    said = load_tokenizer(tmp_path / "model.qf").apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    )
    assert said == "Hi!"
