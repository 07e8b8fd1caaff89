"""inspect, verify, diff and meta on .qf files: what they print, how they end."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from pathlib import Path

import pytest

from qformat import container, report, schemes, store, verification
from qformat.cli.meta import listing
from qformat.errors import QFormatError
from qformat.report.layout import cells, line_cells
from tests.cli import models
from tests.cli.command_line import BASE, call, controls, process, terminal

HOSTILE = {
    "general.name": "\x1b[31mname\x07", "general.license": "\u202ereversed", "general.description": "a\nb\rc\x9bd",
    "tokenizer.chat_template": "{{ ''.__class__ }}" * 1000, "x.list": ["\x1b", {"\x07": "\x7f"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("model") / "tiny.qf")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("hostile") / "\x1b[31m\u202ex y.qf", metadata=HOSTILE)


def damaged(model: Path, path: Path, *names: str) -> Path:
    """A copy of `model` with one bit of each named tensor flipped."""
    data = bytearray(model.read_bytes())
    with store.open(model) as opened:
        for name in names:
            record = opened[name].record
            data[record.offset + record.stored // 2] ^= 1
    path.write_bytes(data)
    return path


# -- inspect -----------------------------------------------------------------------------------------------------------

KEYS = {"format", "digest", "total_bytes", "bits_per_weight", "metadata", "tensors"}
TENSOR_KEYS = {"name", "shape", "dtype", "coding", "method", "bits", "group_size", "bits_per_weight", "nbytes", "error"}


def test_json_has_the_promised_keys_and_the_files_facts(model: Path) -> None:
    shown = json.loads(call("inspect", "--json", model).out)
    assert shown.keys() >= KEYS
    assert shown["format"] == "qformat"
    assert shown["total_bytes"] == model.stat().st_size
    with store.open(model) as opened:
        assert shown["digest"] == opened.digest
        assert shown["metadata"] == opened.metadata
        assert [tensor["name"] for tensor in shown["tensors"]] == list(opened)
        for tensor in shown["tensors"]:
            assert tensor.keys() >= TENSOR_KEYS
            known = opened[tensor["name"]]
            assert tensor["shape"] == list(known.shape)
            for key in ("dtype", "coding", "method", "bits", "group_size", "nbytes", "error"):
                if tensor["alias_of"] is None:
                    assert tensor[key] == getattr(known, key), key
    weights = [tensor for tensor in shown["tensors"] if tensor["alias_of"] is None]
    n_bits = 8 * sum(tensor["nbytes"] for tensor in weights)
    assert shown["bits_per_weight"] == pytest.approx(n_bits / sum(math.prod(tensor["shape"]) for tensor in weights))


def test_the_function_says_the_same(model: Path) -> None:
    assert report.describe(model) == json.loads(call("inspect", "--json", model).out)


def test_the_tree_folds_layers(model: Path) -> None:
    out = call("inspect", model).out
    assert "layers.0–2  3 ×" in out
    assert "rtn 4-bit g8" in out
    assert "head.weight → model.embed.weight" in out
    assert "config.json (24 B)" in out
    assert "mit" in out
    assert "0.0600 mean" in out


def test_tensors_are_listed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # parallel workers are given a narrow one, in which names are cut
    out = call("inspect", "--tensors", model).out
    with store.open(model) as opened:
        assert all(any(line.startswith(name) for line in out.splitlines()) for name in opened)


def test_quiet_is_one_line(model: Path) -> None:
    result = call("inspect", "-q", model)
    assert result.out.count("\n") == 1
    with store.open(model) as opened:
        assert opened.digest in result.out


@pytest.mark.parametrize("name", ["model.layers.1.up.weight", "model.layers.0.norm.weight", "head.weight"])
def test_one_tensor_with_its_histograms(model: Path, name: str) -> None:
    result = call("inspect", "--tensor", name, model)
    assert result.code == 0
    assert result.out.startswith(name)
    assert "█" in result.out
    if "up" in name:
        assert "codes" in result.out
        assert "scales" in result.out


def test_of_a_large_tensor_rows_are_sampled(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qformat.report import details

    monkeypatch.setattr(details, "SAMPLE", 100)
    monkeypatch.setattr(details, "LARGEST", 100)
    result = call("inspect", "--tensor", "model.layers.1.up.weight", model)
    assert result.code == 0
    assert "(6 of 24 rows)" in result.out
    assert re.search(r"scales +24 × 2 +float16\n", result.out)


def test_an_unknown_tensor(model: Path) -> None:
    result = call("inspect", "--tensor", "model.layers.1.up.weigth\x1b", model)
    assert result.code == 1
    assert "model.layers.1.up.weigth\\x1b" in result.err
    assert result.err.count("\n") == 1


ALL = [
    ["inspect"], ["inspect", "--tensors"], ["inspect", "--json"], ["inspect", "-q"],
    ["inspect", "--tensor", "model.embed.weight"], ["verify"], ["verify", "--json"], ["meta"], ["meta", "--json"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", ALL, ids=" ".join)
def test_no_control_byte_of_a_file_is_shown(hostile: Path, arguments: list[str]) -> None:
    result = call(*arguments, hostile)
    assert result.code == 0
    assert result.err == ""
    assert not controls(result.out)
    assert "__class__" not in result.out or arguments[-1] == "--json" or len(result.out) < 5000


@pytest.mark.parametrize("columns", [10, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("arguments", [each for each in ALL if "--json" not in each and "-q" not in each], ids=" ".join)
def test_output_fits(hostile: Path, arguments: list[str], columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for line in call(*arguments, hostile).out.splitlines():
        assert cells(line) <= max(columns, 22) or arguments == ["verify"]


def test_wide_characters_of_metadata_fit() -> None:
    metadata = {f"漢漢漢漢漢{count}": "漢" * count for count in (80, 100, 300)} | {"k": "漢" * 100}
    for width in (40, 80, 200):
        assert all(line_cells(line) <= width for line in listing(metadata, width))


def test_a_terminal_gets_colour_and_its_width(hostile: Path) -> None:
    for columns in (40, 90):
        plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal(["inspect", hostile], columns))
        assert not controls(plain)
        assert max(map(cells, plain.splitlines())) <= columns
    assert not controls(terminal(["inspect", hostile], 80, {"NO_COLOR": "1"}))


@pytest.mark.parametrize(
    "arguments", [["inspect"], ["inspect", "--json"], ["inspect", "--tensors"], ["verify"], ["meta"]]
)
def test_torch_and_others_stay_out(model: Path, arguments: list[str]) -> None:
    script = (
        "import sys\nfrom qformat.cli.main import main\ncode = main(sys.argv[1:])\n"
        "heavy = [n for n in ('torch', 'transformers', 'rich', 'fsspec', 'yaml', 'safetensors', 'huggingface_hub', "
        "'qformat.converters') if n in sys.modules]\nassert not heavy and code == 0, (heavy, code)\n"
    )
    done = subprocess.run([BASE[0], "-c", script, *arguments, str(model)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- verify ------------------------------------------------------------------------------------------------------------


def test_a_sound_file(model: Path) -> None:
    result = call("verify", model)
    assert result.code == 0
    assert result.out.startswith("ok  ")
    assert call("verify", "-q", model) == (0, "", "")
    shown = json.loads(call("verify", "--json", model).out)
    assert shown["ok"] is True
    assert shown["errors"] == []


def test_every_bad_tensor_is_named(model: Path, tmp_path: Path) -> None:
    names = ["model.layers.0.up.weight", "model.layers.2.down.weight", "model.embed.weight"]
    bad = damaged(model, tmp_path / "bad.qf", *names)
    result = call("verify", bad)
    assert result.code == 4
    for name in names:
        assert name in result.out
    assert "model.layers.1" not in result.out
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    shown = json.loads(call("verify", "--json", bad).out)
    assert {error["tensor"] for error in shown["errors"]} == set(names)
    with pytest.raises(QFormatError) as caught:
        verification.verify(bad)
    assert all(name in str(caught.value) for name in names)


def test_a_pinned_digest(model: Path) -> None:
    with store.open(model) as opened:
        digest = opened.digest
    assert call("verify", "--digest", digest, model).code == 0
    assert call("verify", "--digest", digest.upper(), model).code == 0
    result = call("verify", "--digest", "0" * 64, model)
    assert result.code == 4
    assert digest in result.out


def test_a_torn_file(model: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.qf"
    torn.write_bytes(model.read_bytes()[:-1])
    for verb in ("inspect", "verify", "meta"):
        result = call(verb, torn)
        assert result.code == 4
        assert result.out == ""
        assert result.err.startswith(f"error: {torn}")


# -- diff --------------------------------------------------------------------------------------------------------------


def test_two_files(model: Path, tmp_path: Path) -> None:
    same = models.write(tmp_path / "same.qf")
    assert call("diff", model, same).code == 0
    other = models.write(tmp_path / "other.qf", change="model.layers.1.up.weight", metadata={"general.license": "gpl"})
    result = call("diff", model, other)
    assert result.code == 1
    assert "model.layers.1.up.weight" in result.out
    assert "general.license: mit → gpl" in result.out
    assert "model.layers.0" not in result.out
    shown = json.loads(call("diff", "--json", model, other).out)
    changed = [tensor for tensor in shown["tensors"] if tensor["kind"] != "same"]
    assert [tensor["name"] for tensor in changed] == ["model.layers.1.up.weight"]
    assert changed[0]["max_abs"] > 0
    assert call("diff", "--structure", model, models.write(tmp_path / "more.qf", layers=4)).code == 1


def test_a_file_and_a_checkpoint_of_its_values(model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with store.open(model) as opened:
        values = {name: opened[name].decode() for name in opened if name != "head.weight"}
    save_file(values, tmp_path / "model.safetensors")
    shown = json.loads(call("diff", "--json", model, tmp_path / "model.safetensors").out)
    kinds = {tensor["name"]: tensor["kind"] for tensor in shown["tensors"]}
    assert kinds.pop("head.weight") == "only in A"
    assert {kind for name, kind in kinds.items() if "up" in name or "down" in name} == {"dtype"}  # bfloat16 and float32
    assert {tensor["relative"] for tensor in shown["tensors"]} <= {0.0, None}


# -- meta --------------------------------------------------------------------------------------------------------------


def test_values_are_set_shown_and_removed(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.qf"
    path.write_bytes(model.read_bytes())
    before = report.describe(path)
    assert call("meta", path, "set", "general.author", "A \x1b B").code == 0
    assert call("meta", "--json", path, "set", "x.numbers", "[1, 2]").code == 0
    assert call("meta", path, "get", "general.author").out == "A \\x1b B\n"
    assert json.loads(call("meta", path, "get", "--json", "x.numbers").out) == [1, 2]
    assert "x.numbers" in call("meta", path).out
    after = report.describe(path)
    assert after["content_digest"] == before["content_digest"]
    assert after["digest"] != before["digest"]
    assert call("meta", "unset", path, "general.author", "x.numbers").code == 0
    assert report.describe(path)["metadata"] == before["metadata"]
    assert call("verify", path).code == 0


def test_what_is_not_there(model: Path) -> None:
    for arguments in (["get", "no.key"], ["unset", "no.key"]):
        result = call("meta", model, *arguments)
        assert result.code == 1
        assert "no.key" in result.err
    assert call("meta", "--json", model, "set", "key", "{").code == 2
    assert call("meta", "recover").code == 2


def test_of_a_set_the_manifest_is_edited_and_no_shard(tmp_path: Path) -> None:
    path = tmp_path / "x-00001-of-00001.qf"
    with container.create(path) as writer:
        writer.tensor("a", scheme=schemes.dump(models.PLAIN), dtype="float32", shape=(1,), length=4, data=[bytes(4)])
        writer.finish({"a": 1})
    container.write_manifest(tmp_path / "x.qf", [path], {"general.name": "x"})
    for arguments in (["set", "general.name", "y"], ["unset", "a"]):
        result = call("meta", path, *arguments)
        assert (result.code, result.out) == (1, "")
        assert result.err == f"error: {path}: a shard of x.qf, which pins its size and digest: edit x.qf instead\n"
    assert call("meta", tmp_path / "x.qf", "set", "general.name", "y").code == 0
    assert call("verify", "-q", tmp_path / "x.qf") == (0, "", "")


def test_a_torn_edit_is_recovered_and_only_by_recover(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.qf"
    path.write_bytes(model.read_bytes())
    before = report.describe(path)
    call("meta", path, "set", "a", "b")
    os.truncate(path, path.stat().st_size - 5)
    assert call("inspect", path).code == 4
    assert call("meta", "recover", path).code == 0
    assert report.describe(path) == {**before, "total_bytes": path.stat().st_size}
    assert call("meta", path, "recover").code == 0


def test_a_file_that_is_called_like_an_action(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("get").write_bytes(model.read_bytes())
    assert call("meta", "get", "get", "general.license").out == "mit\n"


# -- as a process ------------------------------------------------------------------------------------------------------


def test_version() -> None:
    result = process("--version")
    assert result.code == 0
    assert result.out.startswith("qformat ")
    assert "format " in result.out
    assert "kernel " in result.out


def test_a_pipe_that_closes(model: Path) -> None:
    for verb in ("inspect", "inspect --json", "inspect --tensors", "meta"):
        script = f"'{BASE[0]}' -m qformat.cli.main {verb} '{model}' | head -n 1; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, check=False, timeout=600)
        assert done.returncode in (0, 141)
        assert done.stderr == b""
