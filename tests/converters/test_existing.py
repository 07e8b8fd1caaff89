"""An output that is there: what the run that made it said is said again, and only what a run would make is its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import qformat
from qformat.cli.main import main
from qformat.container import edit_metadata
from qformat.errors import OutputError
from tests.converters.checkpoints import STORIES, directory, llama


@pytest.mark.parametrize("nonfinite", ["dense", "zero"])
@pytest.mark.parametrize("shard_size", [None, 10_000])
def test_the_report_is_the_first_ones(nonfinite: str, shard_size: int | None, tmp_path: Path) -> None:
    tensors = llama(1)
    tensors["model.layers.0.mlp.up_proj.weight"][3, 3] = np.inf
    tensors["model.norm.weight"][0] = np.nan
    root = directory(tmp_path / "m", tensors)
    first = qformat.convert(root, tmp_path / "x.qf", nonfinite=nonfinite, shard_size=shard_size)
    again = qformat.convert(root, tmp_path / "x.qf", nonfinite=nonfinite, shard_size=shard_size)
    assert again.up_to_date
    assert set(first.left_dense) == set(again.left_dense)
    assert len(again.left_dense) == (nonfinite == "dense")
    same = {field.name for field in dataclasses.fields(first)} - {"plan", "up_to_date", "left_dense"}
    assert all(getattr(first, name) == getattr(again, name) for name in same)
    assert first.nonfinite == {"model.layers.0.mlp.up_proj.weight": (0, 1), "model.norm.weight": (1, 0)}


def test_a_gate_that_failed_fails_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["convert", str(STORIES), str(tmp_path / "x.qf"), "--max-error", "0.01"]
    for _ in range(2):
        assert main(command) == 3
        assert "35 gate(s) failed" in capsys.readouterr().err
    assert main([*command[:-1], "0.5"]) == 0
    assert "already" in capsys.readouterr().out


def test_what_is_something_else(tmp_path: Path) -> None:
    root, out = directory(tmp_path / "m", llama(1)), tmp_path / "x.qf"
    (root / "tokenizer.json").write_text("{}")
    qformat.convert(root, out)
    assert qformat.convert(root, out).up_to_date

    def refused(message: str = "something else", **options: object) -> None:
        before = out.read_bytes()
        with pytest.raises(OutputError, match=message):
            qformat.convert(root, out, **options)  # type: ignore[arg-type]
        assert out.read_bytes() == before

    refused(bits=3)
    refused(shard_size=10_000)
    refused(compress=True)
    (root / "tokenizer.json").write_text("[]")  # as long as it was
    refused()
    (root / "tokenizer.json").unlink()
    refused()
    (root / "tokenizer.json").write_text("{}")
    assert qformat.convert(root, out).up_to_date
    with open(root / "model.safetensors", "r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"!")
    refused()
    qformat.convert(root, out, overwrite=True)
    with qformat.open(out) as model:
        tool = model.metadata["qformat.tool"]
    edit_metadata(out, {"qformat.tool": f"{tool}1"})  # another version may code the same recipe otherwise
    refused()
    edit_metadata(out, {"qformat.tool": tool, "qformat.nonfinite": "none"})
    refused("edited")
    out.write_bytes(b"")
    refused("exists; overwrite")
