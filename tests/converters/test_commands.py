"""`qformat convert`, `plan` and `export`: thin doors to the functions, with the exit codes that scripts rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import qformat
from qformat.cli.conversion import METHODS as OFFERED
from qformat.cli.main import main
from qformat.converters.methods import METHODS
from qformat.report.layout import clip
from tests.cli.command_line import terminal
from tests.converters.checkpoints import STORIES, directory, llama


def test_every_method_is_offered() -> None:
    assert set(OFFERED) == set(METHODS)


def test_convert_is_the_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "convert",
        str(STORIES),
        str(tmp_path / "x.qf"),
        "--method",
        "hqq",
        "--bits",
        "3",
        "--group-size",
        "32",
    ]
    assert main(arguments) == 0
    out = capsys.readouterr()
    assert "35 tensors quantized" in out.out
    assert "embedding: model.embed_tokens.weight" in out.out
    qformat.convert(STORIES, tmp_path / "y.qf", method="hqq", bits=3, group_size=32)
    assert (tmp_path / "x.qf").read_bytes() == (tmp_path / "y.qf").read_bytes()
    assert main(arguments) == 0
    assert "already" in capsys.readouterr().out
    assert main([*arguments, "--bits", "4"]) == 1
    assert "overwrite" in capsys.readouterr().err
    assert main([*arguments, "--bits", "4", "--overwrite", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["quantized"] == 35
    assert printed["total_bytes"] == (tmp_path / "x.qf").stat().st_size


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "x.qf")
    assert main(["convert", str(tmp_path / "absent"), out]) == 1
    assert main(["convert", str(STORIES), out, "--method", "magic"]) == 2
    assert main(["convert", str(STORIES), out, "--method", "int8", "--bits", "3"]) == 2
    assert main(["convert", str(STORIES), out, "-o", "sparkle=1"]) == 2
    (tmp_path / "r.yaml").write_text("rules: [{match: nothing, bits: 3}]")
    for verb in (["convert", str(STORIES), out], ["plan", str(STORIES)]):
        assert main([*verb, "--recipe", str(tmp_path / "r.yaml")]) == 3
    assert not Path(out).exists()
    (tmp_path / "is.qf").write_bytes(b"")
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "is.qf"), out]) == 1
    assert "qformat export" in capsys.readouterr().err
    assert main(["convert", str(STORIES), out, "--bits", "2", "--max-error", "0.01", "-q"]) == 3
    assert "above 0.01" in capsys.readouterr().err
    qformat.verify(out)
    tensors = llama(1, dtype=np.float32)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = np.inf
    assert main(["convert", str(directory(tmp_path / "m", tensors)), str(tmp_path / "y.qf"), "-q"]) == 3
    assert "up_proj.weight: 0 NaN and 1 infinite" in capsys.readouterr().err
    qformat.verify(tmp_path / "y.qf")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_is_75_and_resumes(number: int, tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(16, hidden=512, mlp=1024))
    command = [sys.executable, "-m", "qformat.cli.main", "convert", str(root), str(tmp_path / "x.qf"), "-m", "hqq"]
    process = subprocess.Popen([*command, "-o", "iterations=200"], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "x.qf.partial").exists():
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 75, said
    assert said.count("\n") == 1
    assert "same command" in said
    assert subprocess.run([*command, "-o", "iterations=200"], check=False).returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["m", "x.qf"]
    qformat.verify(tmp_path / "x.qf")


def test_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["plan", str(STORIES), "--bits", "3", "--method", "rtn"]) == 0
    shown = capsys.readouterr().out
    assert "model.layers.*.mlp.up_proj.weight (5)" in shown
    assert "out_in" in shown
    assert main(["plan", str(STORIES), "--bits", "3", "--method", "rtn", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    qformat.convert(STORIES, tmp_path / "x.qf", bits=3, method="rtn")
    with qformat.open(tmp_path / "x.qf") as model:
        assert {row["name"]: row["nbytes"] for row in plan["tensors"]} == {name: model[name].nbytes for name in model}
        assert plan["bytes"] == sum(model[name].nbytes for name in model)


@pytest.mark.parametrize("columns", [40, 80])
def test_what_was_done_fits_the_terminal(columns: int, tmp_path: Path) -> None:
    out = tmp_path / "x.qf"
    for command in (["convert", STORIES, out], ["verify", out], ["convert", STORIES, out], ["export", out, "plain"]):
        shown = terminal(command, columns, {"NO_COLOR": "1"}, tmp_path).split("\r\x1b[K")[-1].splitlines()
        assert shown[0].startswith("ok  ")
        assert max(map(len, shown)) <= columns


@pytest.mark.parametrize("columns", [40, 80])
def test_a_plan_says_why_on_a_narrow_terminal(columns: int, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text('rules: [{match: "*.up_proj.weight", bits: 3}]')
    lines = terminal(["plan", STORIES, "-r", tmp_path / "r.yaml"], columns, {"NO_COLOR": "1"}).splitlines()
    assert max(map(len, lines)) <= columns
    why = lines[lines.index("tensors  why") + 1 :]
    assert clip("      5  linear (out, in); rule *.up_proj.weight", columns) in why


def test_export(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    qformat.convert(STORIES, tmp_path / "x.qf", method="rtn")
    assert main(["export", str(tmp_path / "x.qf"), str(tmp_path / "out")]) == 0
    assert main(["export", str(tmp_path / "x.qf"), str(tmp_path / "out")]) == 1
    assert "not empty" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "x.qf"), str(tmp_path / "out"), "--overwrite", "--json"]) == 0
    assert "model.safetensors" in json.loads(capsys.readouterr().out)["files"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_before_a_run_has_begun_are_75(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr("qformat.converters.run.open_source", lambda *_, **__: os.kill(os.getpid(), number))
    assert main(["convert", str(STORIES), str(tmp_path / "x.qf"), "-q"]) == 75
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait_and_is_75_too(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(*_: object) -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        raise AssertionError("the second is not waited for")

    arguments = ["convert", str(STORIES), str(tmp_path / "x.qf"), "-q"]
    with monkeypatch.context() as patched:
        patched.setattr("qformat.converters.conversion.Conversion._between", twice)
        assert main([*arguments, "-j", "1"]) == 75
    assert main(arguments) == 0
    qformat.verify(tmp_path / "x.qf")


def test_a_plan_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(directory(tmp_path / "m", {}))]) == 0
    assert "0 tensors" in capsys.readouterr().out
