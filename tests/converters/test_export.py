"""A file written back as a plain directory: what any loader reads is what the file decodes to."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import qformat
from qformat.converters.export import export
from qformat.converters.sources import open_source
from qformat.errors import OutputError, RecipeError
from qformat.report import checkpoint
from tests.converters.checkpoints import STORIES, directory, llama


@pytest.mark.parametrize("shard_size", ["5GiB", 100_000])
def test_export_is_what_the_file_decodes_to(shard_size: str | int, tmp_path: Path) -> None:
    qformat.convert(STORIES, tmp_path / "x.qf", method="ls")
    done = export(tmp_path / "x.qf", tmp_path / "out", shard_size=shard_size)
    source = open_source(tmp_path / "out")
    assert sorted(done.files) == sorted(p.name for p in (tmp_path / "out").iterdir() if p.name[-10:] != "index.json")
    with qformat.open(tmp_path / "x.qf") as model:
        assert set(source.tensors) == set(model)
        for name, tensor in source.tensors.items():
            assert tensor.dtype == "bfloat16"
            assert tensor.shape == model[name].shape
            got = tensor.read_rows(0, tensor.matrix_shape()[0]).reshape(tensor.shape)
            assert np.array_equal(got, model[name].decode().astype(ml_dtypes.bfloat16))
        assert done.nbytes == source.nbytes
        assert (tmp_path / "out" / "tokenizer.json").read_bytes() == model.attachments["tokenizer.json"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_other_readers_agree(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    tensors = llama(1, dtype=np.float32)
    tensors |= {"mask": np.ones((3, 3), bool), "ids": np.arange(5), "scalar": np.float32(3).reshape(())}
    root = directory(tmp_path / "m", tensors)
    qformat.convert(root, tmp_path / "x.qf", recipe={"rules": [{"match": "*.weight", "skip": True}]})
    export(tmp_path / "x.qf", tmp_path / "out", dtype="float32")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert set(found) == set(tensors)
    for name, want in tensors.items():
        assert found[name].dtype == want.dtype
        assert np.array_equal(found[name], want)


def test_what_is_refused(tmp_path: Path) -> None:
    qformat.convert(STORIES, tmp_path / "x.qf", method="rtn")
    with pytest.raises(RecipeError):
        export(tmp_path / "x.qf", tmp_path / "out", dtype="int4")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("a")
    with pytest.raises(OutputError, match="not empty"):
        export(tmp_path / "x.qf", tmp_path / "full")
    with pytest.raises(OutputError, match="not a directory"):
        export(tmp_path / "x.qf", tmp_path / "full" / "a")
    with pytest.raises(FileNotFoundError, match=r"absent\.qf"):
        export(tmp_path / "absent.qf", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(OutputError, match=r"cannot be written: Not a directory$"):
        export(tmp_path / "x.qf", tmp_path / "full" / "a" / "b")
    export(tmp_path / "x.qf", tmp_path / "full", overwrite=True)
    assert (tmp_path / "full" / "model.safetensors").exists()


def test_weights_of_an_earlier_export_are_not_left_beside_the_new_ones(tmp_path: Path) -> None:
    """One file over many shards and many over one: loaders take an index before a file, or the other way round."""
    out = tmp_path / "out"
    for bits, shard_size in ((8, 100_000), (4, "5GiB"), (3, 100_000), (2, 200_000)):
        qformat.convert(STORIES, tmp_path / f"{bits}.qf", method="rtn", bits=bits)
        done = export(tmp_path / f"{bits}.qf", out, shard_size=shard_size, overwrite=True)
        (out / "notes.safetensors").write_text("another's")
        left = {path.name for path in out.iterdir()} - {"notes.safetensors", "model.safetensors.index.json"}
        assert left == set(done.files)
        name = "model.layers.0.mlp.up_proj.weight"
        with qformat.open(tmp_path / f"{bits}.qf") as model:
            tensor = open_source(out).tensors[name]
            found = tensor.read_rows(0, tensor.matrix_shape()[0]).reshape(tensor.shape)
            assert np.array_equal(found, model[name].decode("bfloat16"))


def test_a_configuration_with_an_infinity(tmp_path: Path) -> None:
    """Python writes `Infinity`, and the configurations of Mamba-2 models hold one."""
    root = directory(tmp_path / "m", llama(1))
    text = '{"model_type": "llama", "torch_dtype": "float16", "time_step_limit": [0.0, Infinity]}'
    (root / "config.json").write_text(text)
    qformat.convert(root, tmp_path / "x.qf", method="rtn")
    export(tmp_path / "x.qf", tmp_path / "out")
    with qformat.open(tmp_path / "x.qf") as model:
        assert model.attachments["config.json"] == text.encode()
        assert model.metadata["general.architecture"] == "llama"
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {**json.loads(text), "torch_dtype": "bfloat16"}
    assert checkpoint.overview(str(root)).metadata["general.architecture"] == "llama"
