"""The README is true: its commands and programs run, and its map shows what is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language; `console` is for what this test does not run."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place that looks like the root as far as the README's commands see."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_commands_run(folder: Path) -> None:
    for block in blocks("bash"):
        run(["bash", "-euo", "pipefail", "-c", block], folder)
    assert (folder / "plain" / "model.safetensors").exists()


def test_programs_run(folder: Path) -> None:
    out = run([sys.executable, "-c", "\n".join(blocks("python"))], folder)
    assert "Once upon a time" in out


def test_the_map_shows_what_is_there() -> None:
    (drawn,) = blocks("")
    shown, above = set(), ""
    for line in drawn.splitlines():
        name = line.split()[0]
        above = name if not line.startswith(" ") else above
        shown.add(name if not line.startswith(" ") else above + name)
    assert not [name for name in shown if not (ROOT / name).exists()]
    tracked = {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert {name for name in tracked if not name.startswith((".", "build", "demo"))} <= shown
    packages = {f"qformat/{path.name}/" for path in (ROOT / "qformat").iterdir() if any(path.glob("*.py"))}
    assert packages - {"qformat/converters/"} <= shown


def test_methods_are_those_of_the_table() -> None:
    from qformat.converters.methods import METHODS

    rows = re.findall(r"^\| (`.*?) \| [\d–]+ \|", TEXT, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(METHODS)
