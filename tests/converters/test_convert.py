"""A conversion end to end: what the plan said comes out, whatever the workers, shards and instruction sets."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import qformat
from qformat import container
from qformat.converters import plan as planning
from qformat.converters.methods import METHODS
from qformat.converters.plan import make_plan
from qformat.converters.recipe import make_recipe
from qformat.converters.sources import open_source
from qformat.errors import CoverageError, OutputError, RecipeError, SourceError
from tests.converters.checkpoints import STORIES, directory, llama, save


def lengths(path: Path) -> dict[str, int]:
    with container.open(path) as opened:
        return {name: opened.record(name).length for name in opened.names()}


@pytest.mark.parametrize("method", METHODS)
def test_the_plan_is_what_comes_out(method: str, tmp_path: Path) -> None:
    report = qformat.convert(STORIES, tmp_path / "x.qf", method=method)
    found = lengths(tmp_path / "x.qf")
    assert list(found) == [item.name for item in report.plan.items]
    for item in report.plan.items:
        assert found[item.name] == item.length if item.exact else found[item.name] <= item.length
    weights = sum(item.tensor.size for item in report.plan.items if item.action != "alias")
    assert report.bits_per_weight == 8 * sum(found.values()) / weights
    with qformat.open(tmp_path / "x.qf") as model:
        assert model.digest == report.digest
        assert model.attachments["config.json"] == (STORIES / "config.json").read_bytes()
        source = open_source(STORIES)
        for name, tensor in source.tensors.items():
            want = tensor.read_rows(0, tensor.matrix_shape()[0]).astype(np.float32).reshape(tensor.shape)
            got = model[name].decode()
            assert got.shape == tensor.shape
            if model[name].method is None:
                assert np.array_equal(got, want)
            else:
                error = np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want.astype(np.float64))
                assert model[name].method == method
                assert model[name].error == pytest.approx(error, rel=1e-3)
                assert model[name].error == pytest.approx(report.errors[name], rel=1e-6)
    qformat.verify(tmp_path / "x.qf")


@pytest.mark.parametrize("method", METHODS)
def test_a_group_as_long_as_the_row_has_its_size(method: str, tmp_path: Path) -> None:
    size = {} if method in ("eetq", "int8") else {"group_size": 64}
    qformat.convert(STORIES, tmp_path / "x.qf", method=method, **size)
    with qformat.open(tmp_path / "x.qf") as model:
        for name in ("self_attn.q_proj", "mlp.down_proj"):  # of 64 and 172 inputs
            assert model[f"model.layers.0.{name}.weight"].group_size == size.get("group_size")


def test_bytes_depend_on_nothing_but_source_and_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SLAB_WEIGHTS", 4096)
    root = directory(tmp_path / "m", llama(3), shards=2)
    made = set()
    for i, (workers, memory) in enumerate(((1, "2GiB"), (2, "2GiB"), (4, "160MiB"), (None, "1GiB"))):
        qformat.convert(root, tmp_path / f"{i}.qf", method="ls", workers=workers, max_memory=memory)
        made.add((tmp_path / f"{i}.qf").read_bytes())
    assert len(made) == 1
    text = next(iter(made))
    for secret in (str(tmp_path), str(root.parent), "workers"):
        assert secret.encode() not in text


@pytest.mark.parametrize("method", METHODS)
def test_processes_make_the_same_bytes(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes back from another process, at work in another directory, is what a thread gives."""
    directory(tmp_path / "m", llama(1))
    monkeypatch.chdir(tmp_path)
    qformat.convert("m", "threads.qf", method=method)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=os.chdir, initargs=("/",)) as pool:
        qformat.convert("m", "processes.qf", method=method, executor=pool)
    assert (tmp_path / "processes.qf").read_bytes() == (tmp_path / "threads.qf").read_bytes()


@pytest.mark.parametrize("method", ["rtn", "ls", "hqq", "nf4"])
def test_instruction_sets_make_the_same_bytes(method: str, tmp_path: Path) -> None:
    made = {}
    for kernel in ("generic", ""):
        out = tmp_path / f"{kernel or 'default'}.qf"
        code = f"import qformat; qformat.convert({str(STORIES)!r}, {str(out)!r}, method={method!r})"
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "QFORMAT_KERNEL": kernel})
        made[kernel] = out.read_bytes()
    assert made["generic"] == made[""]


def test_shards(tmp_path: Path) -> None:
    report = qformat.convert(STORIES, tmp_path / "x.qf", method="rtn", shard_size=60_000)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[0] == "x-00001-of-00004.qf"
    assert names[-1] == "x.qf"
    qformat.convert(STORIES, tmp_path / "one.qf", method="rtn")
    with qformat.open(tmp_path / "x.qf") as many, qformat.open(tmp_path / "one.qf") as one:
        assert list(many) == list(one)
        assert many.content_digest == one.content_digest
        assert dict(many.attachments) == dict(one.attachments)
        assert all(np.array_equal(many[name].decode(), one[name].decode()) for name in one)
    qformat.verify(tmp_path / "x.qf")
    assert report.path == tmp_path / "x.qf"
    assert (report.size, report.files) == (sum((tmp_path / name).stat().st_size for name in names), len(names))
    again = qformat.convert(STORIES, tmp_path / "x.qf", method="rtn", shard_size=60_000)
    assert again.up_to_date and (again.size, again.files) == (report.size, report.files)


@pytest.mark.parametrize("rows", [64, 128, 2000])  # small ones share blocks of zstd
def test_compression_saves_a_third_of_bfloat16(rows: int, tmp_path: Path) -> None:
    weight = (np.random.default_rng(0).standard_normal((rows, 512), np.float32) * 0.02).astype(ml_dtypes.bfloat16)
    path = save(tmp_path / "x.safetensors", {"embed_tokens.weight": weight})
    qformat.convert(path, tmp_path / "x.qf", compress=True)
    with container.open(tmp_path / "x.qf") as opened:
        assert opened.record("embed_tokens.weight").stored < 0.675 * weight.nbytes
    with qformat.open(tmp_path / "x.qf") as model:
        assert np.array_equal(model["embed_tokens.weight"].decode(), weight.astype(np.float32))


def test_conv1d_and_experts_are_turned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "h.0.attn.c_attn.weight": rng.standard_normal((32, 96)).astype(np.float32),
        "h.0.mlp.c_fc.weight": rng.standard_normal((32, 128)).astype(np.float32),
    }
    root = directory(tmp_path / "gpt2", tensors, {"model_type": "gpt2"})
    qformat.convert(root, tmp_path / "gpt2.qf", method="rtn", bits=8, group_size=16)
    experts = {
        "model.layers.0.experts.gate_up_proj": rng.standard_normal((3, 32, 48)).astype(np.float32),
        "model.layers.0.experts.down_proj": rng.standard_normal((3, 24, 32)).astype(np.float32),
        "model.layers.0.experts.mystery": rng.standard_normal((3, 24, 32)).astype(np.float32),
    }
    root = directory(tmp_path / "moe", experts, {"model_type": "gpt_oss", "hidden_size": 32})
    report = qformat.convert(root, tmp_path / "moe.qf", method="rtn", bits=8, group_size=16)
    axes = {item.name: (item.action, item.axis) for item in report.plan.items}
    assert axes["model.layers.0.experts.gate_up_proj"] == ("quantize", "in_out")
    assert axes["model.layers.0.experts.down_proj"] == ("quantize", "in_out")
    assert axes["model.layers.0.experts.mystery"][0] == "dense"
    for file, made in (("gpt2.qf", tensors), ("moe.qf", experts)):
        with qformat.open(tmp_path / file) as model:
            for name, want in made.items():
                assert np.linalg.norm(model[name].decode() - want) < 0.01 * np.linalg.norm(want)


def test_torch_files_and_aliases(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    weight = torch.randn(64, 32, dtype=torch.bfloat16)
    state = {
        "model.embed_tokens.weight": weight,
        "lm_head.weight": weight,
        "layers.0.up_proj.weight": torch.randn(48, 32),
    }
    torch.save(state, tmp_path / "pytorch_model.bin")
    report = qformat.convert(tmp_path / "pytorch_model.bin", tmp_path / "x.qf", method="rtn")
    assert [item.action for item in report.plan.items] == ["dense", "quantize", "alias"]
    with qformat.open(tmp_path / "x.qf") as model:
        assert np.array_equal(model["lm_head.weight"].decode(), weight.float().numpy())


def test_hub_ids_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache as huggingface_hub leaves it: blobs, and a snapshot of links into them."""
    from huggingface_hub import constants

    commit = "a" * 40
    repo = tmp_path / "models--org--tiny"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for file in directory(tmp_path / "plain", llama(1)).iterdir():
        blob = repo / "blobs" / file.name.replace(".", "")
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    qformat.convert("org/tiny", tmp_path / "x.qf", method="rtn")
    with qformat.open(tmp_path / "x.qf") as model:
        assert model.metadata["qformat.source.name"] == "org/tiny"
        assert model.metadata["qformat.source.revision"] == commit
    with pytest.raises(SourceError, match="hub"):
        qformat.convert("org/absent", tmp_path / "y.qf")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    command = [
        sys.executable,
        "-m",
        "qformat.cli.main",
        "convert",
        "org/tiny@main",
        str(tmp_path / "z.qf"),
        "--method",
        "rtn",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "z.qf").read_bytes() == (tmp_path / "x.qf").read_bytes()


def test_an_unknown_tensor_of_three_dimensions_stays_dense_and_is_reported(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).standard_normal((3, 32, 64)).astype(np.float16)
    name = "model.layers.0.mystery.weight"
    qformat.convert(save(tmp_path / "x.safetensors", {name: cube}), tmp_path / "x.qf", method="rtn")
    with qformat.open(tmp_path / "x.qf") as model:
        assert model[name].method is None
        assert np.array_equal(model[name].decode(dtype="float16"), cube)
        reasons = model.metadata["qformat.coverage"]["dense"]["reasons"]
        assert reasons == {"unknown 3-D tensor": ["model.layers.*.mystery.weight"]}


def test_provenance(tmp_path: Path) -> None:
    import blake3

    qformat.convert(STORIES, tmp_path / "x.qf", method="rtn", bits=3)
    with qformat.open(tmp_path / "x.qf") as model:
        metadata = dict(model.metadata)
    data = (STORIES / "model.safetensors").read_bytes()
    row = {"name": "model.safetensors", "size": len(data), "blake3": blake3.blake3(data).hexdigest()}
    assert metadata["qformat.source.files"] == [row]
    assert metadata["general.architecture"] == "llama"
    assert metadata["qformat.recipe"]["bits"] == 3
    assert metadata["qformat.tool"] == {"name": "qformat", "version": qformat.__version__}
    reasons = metadata["qformat.coverage"]["dense"]["reasons"]
    assert reasons["embedding"] == ["model.embed_tokens.weight"]


@pytest.mark.parametrize("method", METHODS)
def test_defaults_make_the_same_file_said_and_unsaid(method: str, tmp_path: Path) -> None:
    said = {name: option.default for name, option in METHODS[method].options.items()}
    for name, options in (("a.qf", {}), ("b.qf", said)):
        qformat.convert(STORIES, tmp_path / name, method=method, recipe=options)
    assert (tmp_path / "a.qf").read_bytes() == (tmp_path / "b.qf").read_bytes()
    with qformat.open(tmp_path / "a.qf") as model:
        assert model.metadata["qformat.recipe"].items() >= said.items()


def test_nonfinite_weights_are_loud(tmp_path: Path) -> None:
    tensors = llama(1, dtype=np.float32)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name][3, 5] = np.nan
    root = directory(tmp_path / "m", tensors)
    report = qformat.convert(root, tmp_path / "x.qf", method="rtn")
    assert report.nonfinite == {name: (1, 0)}
    assert "NaN" in report.left_dense[name]
    again = qformat.convert(root, tmp_path / "x.qf", method="rtn")
    with qformat.open(tmp_path / "x.qf") as model:
        weights, nbytes = sum(t.decode().size for t in model.values()), sum(t.nbytes for t in model.values())
        assert report.bits_per_weight == again.bits_per_weight == 8 * nbytes / weights > report.plan.bits_per_weight
        assert model.metadata["qformat.nonfinite"] == {name: {"nan": 1, "inf": 0}}
        assert np.array_equal(model[name].decode(), tensors[name], equal_nan=True)
    with pytest.raises(SourceError, match="NaN") as caught:
        qformat.convert(root, tmp_path / "y.qf", method="rtn", nonfinite="error")
    assert caught.value.tensor == name
    assert not (tmp_path / "y.qf").exists()
    qformat.convert(root, tmp_path / "z.qf", method="rtn", nonfinite="zero")
    with qformat.open(tmp_path / "z.qf") as model:
        assert model[name].method == "rtn"


def test_a_matrix_of_complex_numbers_stays_as_it_is(tmp_path: Path) -> None:
    weight = np.exp(1j * np.arange(64 * 64, dtype=np.float32)).astype(np.complex64).reshape(64, 64)
    qformat.convert(save(tmp_path / "x.safetensors", {"freqs.weight": weight}), tmp_path / "x.qf")
    with qformat.open(tmp_path / "x.qf") as model:
        assert model["freqs.weight"].dtype == "complex64"
        assert np.array_equal(model["freqs.weight"].decode("complex64"), weight)


def test_odd_tensors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (3, 1), (5, 7), (16, 127), (0, 8), (8, 0), (1, 4096), (2, 3, 4, 5), (7,), ()]
    tensors = {f"layers.{i}.up_proj.weight": rng.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)}
    tensors |= {"zero.weight": np.zeros((16, 64), np.float32), "same.weight": np.full((16, 64), 3, np.float32)}
    tensors |= {"mask": np.ones((2, 2), bool), "ids": np.arange(4), "huge.weight": np.full((16, 64), 65504, np.float16)}
    path = save(tmp_path / "x.safetensors", tensors)
    for method in METHODS:
        qformat.convert(path, tmp_path / f"{method}.qf", method=method)
        with qformat.open(tmp_path / f"{method}.qf") as model:
            assert set(model) == set(tensors)
            for name, want in tensors.items():
                assert model[name].shape == want.shape
            assert np.array_equal(model["zero.weight"].decode(), tensors["zero.weight"])
            np.testing.assert_allclose(model["same.weight"].decode(), 3, rtol=0.01)


def test_targets_that_are_refused(tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(1))
    (tmp_path / "link.qf").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "fifo.qf")
    (tmp_path / "other.qf").write_bytes(b"something else")
    os.link(root / "model.safetensors", tmp_path / "hard.qf")
    for name in ("link.qf", "fifo.qf", "other.qf", "hard.qf", "m", "absent/x.qf", "m/model.safetensors"):
        with pytest.raises(OutputError):
            qformat.convert(root, tmp_path / name, method="rtn", overwrite=name != "other.qf")
    assert (tmp_path / "other.qf").read_bytes() == b"something else"
    qformat.convert(root, tmp_path / "other.qf", method="rtn", overwrite=True)
    with pytest.raises(OutputError, match="something else"):
        qformat.convert(root, tmp_path / "other.qf", method="rtn", bits=3)


def test_options_that_are_refused(tmp_path: Path) -> None:
    for options in ({"method": "magic"}, {"bits": 9}, {"nonfinite": "what"}, {"max_memory": "3 parsecs"},
                    {"max_memory": "1MiB"}, {"workers": 0}, {"sparkle": 1}):  # fmt: skip
        with pytest.raises(RecipeError):
            qformat.convert(STORIES, tmp_path / "x.qf", **options)  # type: ignore[arg-type]
    with pytest.raises(CoverageError, match="no tensor"):
        qformat.convert(STORIES, tmp_path / "x.qf", recipe={"rules": [{"match": "nothing.*", "bits": 3}]})
    assert not list(tmp_path.iterdir())


def test_recipe_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "method: rtn\nbits: 4\nrules:\n- {match: '*.mlp.down_proj.weight', bits: 8}\n- {match: '*.k_proj.*', skip: true}\n"  # noqa: E501
        "- {match: 're:layers\\.(0|1)\\.', method: hqq}\n- {match: model.embed_tokens.weight, bits: 8}\n"
    )
    qformat.convert(STORIES, tmp_path / "x.qf", recipe=tmp_path / "r.yaml")
    with qformat.open(tmp_path / "x.qf") as model:
        layers = "model.layers."
        assert model[layers + "3.mlp.down_proj.weight"].bits == 8
        assert model[layers + "3.self_attn.k_proj.weight"].method is None
        assert model[layers + "1.self_attn.q_proj.weight"].method == "hqq"
        assert model[layers + "2.self_attn.q_proj.weight"].method == "rtn"
        assert (model["model.embed_tokens.weight"].method, model["model.embed_tokens.weight"].bits) == ("rtn", 8)
        assert json.dumps(model.metadata["qformat.recipe"])
    plan = make_plan(open_source(STORIES), make_recipe(tmp_path / "r.yaml"))
    assert {item.rule for item in plan.items if item.method == "hqq"} == {"re:layers\\.(0|1)\\."}
