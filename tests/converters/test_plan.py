"""Roles, rules and orders: which tensor becomes what, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat.converters.budget import make_budget, parse_size
from qformat.converters.plan import coverage, cut, make_plan
from qformat.converters.recipe import make_recipe
from qformat.converters.roles import execution_order, role_of
from qformat.converters.sources import open_source
from qformat.errors import CoverageError, RecipeError
from tests.converters.checkpoints import STORIES, directory, llama

LINEAR = ["model.layers.0.self_attn.q_proj.weight", "model.layers.3.mlp.experts.7.w1.weight", "h.0.mlp.c_fc.weight",
          "encoder.layer.0.attention.self.query.weight", "transformer.h.1.attn.out_proj.weight",
          "bert.encoder.layer.1.output.dense.weight", "decoder.block.0.layer.0.SelfAttention.q.weight"]  # fmt: skip
DENSE = ["model.embed_tokens.weight", "lm_head.weight", "transformer.wte.weight", "shared.weight", "output.weight",
         "bert.embeddings.word_embeddings.weight", "model.layers.0.mlp.gate.weight", "model.layers.1.block_sparse_moe.gate.weight",  # noqa: E501
         "model.layers.0.mlp.shared_expert_gate.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",  # noqa: E501
         "backbone.layers.0.mixer.A_log", "model.layers.0.router.classifier.weight", "score.weight",
         "model.layers.0.block_sparse_moe.router.layer.weight"]  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_linears(name: str) -> None:
    assert role_of(name, "bfloat16", (64, 64), {}, conv1d=False).linear


@pytest.mark.parametrize("name", DENSE)
def test_what_stays_dense(name: str) -> None:
    role = role_of(name, "bfloat16", (64, 64), {}, conv1d=False)
    assert not role.linear
    assert role.reason


def test_shapes_and_types_that_stay_dense() -> None:
    for dtype, shape in (("int64", (4, 4)), ("float32", (4,)), ("float32", (4, 4, 3, 3)), ("float32", (0, 4))):
        assert not role_of("layers.0.up_proj.weight", dtype, shape, {}, conv1d=False).linear


def test_the_orientation_of_experts() -> None:
    name, gate = "layers.0.mlp.experts.down_proj", "layers.0.mlp.experts.gate_up_proj"
    config = {"hidden_size": 32, "model_type": "x"}
    assert role_of(name, "float32", (4, 32, 48), config, False).transposed is False
    assert role_of(name, "float32", (4, 48, 32), config, False).transposed is True
    assert role_of(gate, "float32", (4, 96, 32), config, False).transposed is False
    assert role_of(gate, "float32", (4, 32, 96), config, False).transposed is True
    assert not role_of(gate, "float32", (4, 32, 32), config, False).linear
    assert role_of(gate, "float32", (4, 32, 32), {**config, "model_type": "gpt_oss"}, False).transposed
    assert role_of(gate, "float32", (4, 32, 32), {**config, "model_type": "mixtral"}, False).linear


@given(st.permutations(list(llama(12, 8, 8, 8, tied=False))))
def test_execution_order(names: list[str]) -> None:
    """Embeddings, layers by number, the last norm, the head, however the names come."""
    ordered = execution_order(names)
    assert ordered[0] == "model.embed_tokens.weight"
    assert ordered[-2:] == ["model.norm.weight", "lm_head.weight"]
    layers = [int(name.split(".")[2]) for name in ordered if ".layers." in name]
    assert layers == sorted(layers)
    first = [name.split("layers.0.")[1] for name in ordered if "layers.0." in name]
    parts = ("input_layernorm", "q_proj", "o_proj", "post_attention_layernorm", "gate_proj", "up_proj", "down_proj")
    assert [part for name in first for part in parts if part in name] == list(parts)


def plan_of(rules: list[dict], tmp_path: Path, **options: object):  # type: ignore[no-untyped-def]
    root = directory(tmp_path / "m", llama(2, tied=False))
    return make_plan(open_source(root), make_recipe({"method": "rtn", "rules": rules, **options}))


def test_the_first_rule_decides(tmp_path: Path) -> None:
    plan = plan_of([{"match": "*layers.0.*", "bits": 3}, {"match": "re:up_proj", "bits": 8}], tmp_path)
    bits = {item.name: item.options.get("bits") for item in plan.items if item.method}
    assert bits["model.layers.0.mlp.up_proj.weight"] == 3
    assert bits["model.layers.1.mlp.up_proj.weight"] == 8
    assert bits["model.layers.1.mlp.down_proj.weight"] == 4
    assert not plan.unmatched


def test_a_rule_about_the_head_makes_a_linear_of_it(tmp_path: Path) -> None:
    plan = plan_of([{"match": "lm_head.*", "bits": 8}], tmp_path)
    assert plan.items[-1].action == "quantize"
    assert "asked for by a rule" in plan.items[-1].reason
    plan = plan_of([{"match": "*", "bits": 8}], tmp_path)
    assert plan.items[-1].action == "dense"


@pytest.mark.parametrize("rule", [{"match": "absent*"}, {"match": "*norm*", "bits": 3}, {"match": "re:^x"}])
def test_rules_that_decide_nothing(rule: dict, tmp_path: Path) -> None:
    plan = plan_of([rule], tmp_path)
    assert [found.match for found in plan.unmatched] == [rule["match"]]
    with pytest.raises(CoverageError) as caught:
        plan.require_coverage()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("recipe", [
    {"rules": "x"}, {"rules": [1]}, {"rules": [{}]}, {"rules": [{"match": ""}]}, {"rules": [{"match": "re:("}]},
    {"rules": [{"match": "*", "axis": "up"}]}, {"rules": [{"match": "*", "skip": "yes"}]}, {"bits": [1]}, {"skip": True},  # noqa: E501
    {"rules": [{"match": "*", "skip": True, "bits": 3}]}, {"method": 3}, {"method": "magic"}, {"bits": 17},
    {"rules": [{"match": "*up*", "method": "magic"}]}, {"rules": [{"match": "*up*", "sparkle": 1}]}, {"group_size": 0.5},  # noqa: E501
    {"bits": 4.0}, {"method": "nf4", "double_quant": 1},
])  # fmt: skip
def test_recipes_that_make_no_sense(recipe: dict) -> None:
    with pytest.raises(RecipeError):
        make_plan(open_source(STORIES), make_recipe(recipe))


def test_equal_recipes_are_equal(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("bits: 3\nmethod: hqq\ngroup_size: -1\nrules: [{bits: 8, match: a, axis: in_out}]")
    one = make_recipe(tmp_path / "r.yaml")
    two = make_recipe({"rules": [{"match": "a", "axis": "in_out", "bits": 8}]}, method="hqq", bits=3, group_size="row")
    assert one.normalised() == two.normalised()
    assert make_recipe(tmp_path / "r.yaml", bits=5).normalised()["bits"] == 5


@pytest.mark.parametrize("text", ["- 1", "a: [", "a: !!python/object/apply:os.system [ls]", "\x00", "&a [*a]",
                                  "rules: x", "rules: [{bits: 3}]"])  # fmt: skip
def test_hostile_recipe_files(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        make_recipe(tmp_path / "r.yaml")
    assert caught.value.file == str(tmp_path / "r.yaml")


@pytest.mark.parametrize("link", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_do_not_multiply_without_end(link: str, tmp_path: Path) -> None:
    text = "rules:\n- &a0 {match: a}\n"
    for level in range(1, 12):
        text += f"- &a{level} {link.format(', '.join([f'*a{level - 1}'] * 10))}\n"
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match="aliases written out"):
        make_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    "text", ["bits: 3\nbits: 4", "rules:\n- match: a\n  bits: 3\n  bits: 4", '{bits: 3, "bits": 3}']
)
def test_keys_that_are_said_twice(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match="twice") as caught:
        make_recipe(tmp_path / "r.yaml")
    assert caught.value.found == "bits"


def test_a_recipe_may_merge_mappings(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("rules:\n- &one {match: a, bits: 3}\n- {<<: *one, match: b}\n")
    assert [(rule.match, rule.options) for rule in make_recipe(tmp_path / "r.yaml").rules] == [
        ("a", {"bits": 3}),
        ("b", {"bits": 3}),
    ]


def test_a_plan_reads_only_headers(tmp_path: Path) -> None:
    root = directory(tmp_path / "m", {"layers.0.up_proj.weight": np.zeros((64, 64), np.float32)})
    with open(root / "model.safetensors", "r+b") as stream:
        stream.seek(-64 * 64 * 4, 2)
        stream.truncate()
        stream.seek(64 * 64 * 4, 1)
        stream.truncate()  # a hole: nothing but the header was ever written
    assert make_plan(open_source(root), make_recipe(None)).items[0].action == "quantize"


@given(st.lists(st.integers(0, 10**6), max_size=20), st.integers(1, 2 * 10**6) | st.none())
def test_shards_are_cut_by_size(sizes: list[int], limit: int | None) -> None:
    class Sized:
        def __init__(self, length: int) -> None:
            self.length = length

    counts = cut([Sized(size) for size in sizes], limit)  # type: ignore[misc]
    assert sum(counts) == len(sizes)
    assert all(counts) or counts == [0]
    start = 0
    for count in counts:
        part = sizes[start : start + count]
        assert limit is None or len(part) <= 1 or sum(part) <= limit
        start += count


def test_sizes_and_budgets() -> None:
    assert [parse_size(text) for text in ("1", "2GiB", "1.5k", "3 MB", "4g")] == [1, 2**31, 1536, 3 * 2**20, 2**32]
    for text in ("x", "-1", "1 parsec", "", "1e3"):
        with pytest.raises(RecipeError):
            parse_size(text)
    plan = make_plan(open_source(STORIES), make_recipe(None))
    assert make_budget(plan, 2**31, 3).workers == 3
    assert make_budget(plan, 2**31, None).peak < 2**31
    with pytest.raises(RecipeError, match="too little memory"):
        make_budget(plan, 2**20, None)


def test_coverage_folds_layers() -> None:
    found = coverage(make_plan(open_source(STORIES), make_recipe(None)).items)
    assert found["quantized"]["tensors"] == 35
    assert "model.layers.*.input_layernorm.weight" in found["dense"]["reasons"]["bias, norm or other vector"]
