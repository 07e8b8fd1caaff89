"""inspect on what others wrote: safetensors, GGUF, a directory; hostile names; every width; pipes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.command_line import BASE, call, controls, process, terminal

HOSTILE = [
    "\x1b[31mred", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\link", "\x1b]52;c;eHg=\x07", "\x1bP+q\x1b\\", "a\bb",
    "a\rb", "a\nb", "\x9b31m", "\u202eevil", "\u2066x", "\ufeffx", "a\u200bb", "{0.__class__}", "%s%n", "\x00", "\x7f",
    "a.\x1b.b",
]  # fmt: skip

MODES = [[], ["--tensors"], ["--json"], ["-q"]]


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "a\x1b[31m\u202e.safetensors"
    tensors = {name: np.zeros((2, 3), np.float16) for name in HOSTILE}
    save_file(tensors, path, metadata={name: name for name in HOSTILE})
    return path


@pytest.mark.parametrize("mode", MODES, ids=" ".join)
def test_nothing_in_a_file_reaches_the_terminal(hostile_file: Path, mode: list[str]) -> None:
    result = call("inspect", *mode, hostile_file)
    assert result.code == 0
    assert result.err == ""
    assert not controls(result.out)


def test_hostile_json_says_the_names_exactly(hostile_file: Path) -> None:
    result = call("inspect", "--json", hostile_file)
    assert result.out.isascii()
    shown = json.loads(result.out)
    assert {tensor["name"] for tensor in shown["tensors"]} == set(HOSTILE)
    assert shown["metadata"] == {name: name for name in HOSTILE}


@pytest.mark.parametrize("columns", [1, 10, 40, 80, 200, 10_000])
@pytest.mark.parametrize("mode", [[], ["--tensors"]], ids=["tree", "tensors"])
def test_lines_fit_the_width(
    hostile_file: Path, columns: int, mode: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    result = call("inspect", *mode, hostile_file)
    assert result.code == 0
    for line in result.out.splitlines():
        assert len(line) <= max(columns, KEY_COLUMN)


KEY_COLUMN = 22  # below this width the facts keep their key and eight cells of value


@pytest.mark.parametrize("columns", [40, 100])
def test_on_a_terminal_colour_and_fit(hostile_file: Path, columns: int) -> None:
    import re

    shown = terminal(["inspect", hostile_file], columns)
    assert "\x1b[" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert not controls(plain)
    assert max(map(len, plain.splitlines())) <= columns
    assert not controls(terminal(["inspect", hostile_file], columns, {"NO_COLOR": "1"}))


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({f"t{n}.x{n % 7}": np.zeros((n % 5,), np.int8) for n in range(3000)}, path)
    for mode in (["--tensors"], ["--json"], []):
        script = (
            f"'{BASE[0]}' -m qformat.cli.main inspect {' '.join(mode)} '{path}' | head -n 1; exit ${{PIPESTATUS[0]}}"
        )
        done = subprocess.run(["bash", "-c", script], capture_output=True, check=False, timeout=600)
        assert done.returncode in (0, 141)
        assert done.stderr == b""
        assert done.stdout.count(b"\n") == 1


def test_the_same_by_function(hostile_file: Path) -> None:
    from qformat import report

    assert json.loads(call("inspect", "--json", hostile_file).out) == json.loads(
        report.dumps(report.describe(hostile_file))
    )


def test_a_directory(tmp_path: Path) -> None:
    save_file({f"model.layers.{n}.w": np.zeros((4, 4), np.float32) for n in range(12)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    result = call("inspect", tmp_path)
    assert result.code == 0
    assert "LlamaForCausalLM" in result.out
    assert "model.layers.0–11.w  12 ×" in result.out


def test_addresses(tmp_path: Path) -> None:
    import fsspec

    save_file({"a": np.zeros((4, 4), np.float32)}, tmp_path / "x.safetensors")
    memory = fsspec.filesystem("memory")
    memory.pipe("/look/x.safetensors", (tmp_path / "x.safetensors").read_bytes())
    try:
        here = json.loads(call("inspect", "--json", tmp_path / "x.safetensors").out)
        there = json.loads(call("inspect", "--json", "memory://look/x.safetensors").out)
        assert here == there
        memory.pipe("/look/config.json", b'{"model_type": "llama"}')
        folder = json.loads(call("inspect", "--json", "memory://look").out)
        assert folder["tensors"] == here["tensors"]
        assert folder["metadata"] == {"general.name": "look", "general.architecture": "llama"}
        result = call("inspect", "memory://look/no\x1b.safetensors")
        assert result.code == 1
        assert result.err.startswith("error: ")
        assert not controls(result.err)
    finally:
        memory.rm("/look", recursive=True)
    for address in ("nosuch://x/y.safetensors", "nosuch://x/y.qf"):
        result = call("inspect", address)
        assert result.code == 1
        assert result.err.count("\n") == 1


@pytest.mark.parametrize("kind", ["fifo", "directory", "empty", "text"])
def test_what_is_no_model(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"" if kind == "empty" else b"version https://git-lfs.github.com/spec/v1\n")
    result = call("inspect", path)
    assert result.code == (1 if kind == "directory" else 4)
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1


def test_no_torch_and_no_numpy_for_a_foreign_header(hostile_file: Path) -> None:
    script = (
        "import sys\nfrom qformat.cli.main import main\ncode = main(['inspect', sys.argv[1]])\n"
        "heavy = [n for n in ('torch', 'numpy', 'rich', 'transformers', 'fsspec') if n in sys.modules]\n"
        "assert not heavy and code == 0, heavy\n"
    )
    subprocess.run([BASE[0], "-c", script, str(hostile_file)], check=True, capture_output=True)


def test_as_a_process(hostile_file: Path) -> None:
    result = process("inspect", "-q", hostile_file)
    assert result.code == 0
    assert result.out == call("inspect", "-q", hostile_file).out
