"""Looking at a file costs little: no torch, no transformers, and only the libraries listed here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import qformat

STORIES = Path(__file__).parent / "data" / "stories260K"

# The libraries outside of the standard library that each may load.
IMPORT = {"msgspec", "numpy", "blake3", "typing_extensions", "xxhash", "qformat"}
LOOK = IMPORT | {"click", "ml_dtypes"}
CHECK = LOOK | {"zstandard", "cffi", "_cffi_backend", "backports"}

REPORT = """
import sys
before = set(sys.modules)
{code}
own = {{name.split(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)
print("LOADED", *sorted(own))
"""


def loaded(code: str) -> set[str]:
    """Top-level modules outside of the standard library that `code` brings into a fresh interpreter."""
    out = subprocess.run(
        [sys.executable, "-I", "-c", REPORT.format(code=code)], check=True, capture_output=True, text=True
    ).stdout
    names = next(line for line in out.splitlines() if line.startswith("LOADED")).split()[1:]
    return {name for name in names if not name.startswith(("_qformat", "__mp_main__", "_distutils"))}


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("light") / "stories.qf"
    qformat.convert(STORIES, path)
    return path


def command(*words: object) -> str:
    """Code that runs a command line and lives on."""
    return f"from qformat.cli.main import main\nassert main({[str(word) for word in words]!r}) == 0"


def test_import_is_light() -> None:
    assert loaded("import qformat") <= IMPORT


def test_open_is_light(stories: Path) -> None:
    assert loaded(f"import qformat\nlist(qformat.open({str(stories)!r}))") <= IMPORT | {"ml_dtypes"}


def test_inspect_is_light(stories: Path) -> None:
    assert loaded(command("inspect", stories)) <= LOOK


def test_verify_is_light(stories: Path) -> None:
    assert loaded(command("verify", stories)) <= CHECK
