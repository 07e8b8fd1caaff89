"""What is installed: one package, its native modules, no sources of C++, and nothing called `converters`."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import qformat

ROOT = Path(__file__).parents[1]


def test_converters_is_only_a_folder() -> None:
    """In an editable install the root may be on the path; the folder refuses to be a package of its own name."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import converters"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "qformat.converters" in done.stderr


def test_the_package_is_found_from_anywhere(tmp_path: Path) -> None:
    code = "import qformat.converters.methods, qformat.kernels; print(qformat.kernels.active())"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("amx", "avx512", "avx2", "generic")


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert qformat.__version__ == project["version"] == metadata.version("qformat")


def test_console_script_runs(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("qformat")
    done = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert qformat.__version__ in done.stdout


@pytest.mark.slow
def test_wheel_from_the_sdist_is_whole_and_clean(tmp_path: Path) -> None:
    """sdist → wheel → a fresh environment, where the native modules work and `converters` does not exist."""
    build = "from scikit_build_core.build import build_sdist, build_wheel; import sys; {}(sys.argv[1])"
    python = [sys.executable, "-c"]
    subprocess.run([*python, build.format("build_sdist"), tmp_path], cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    subprocess.run([*python, build.format("build_wheel"), tmp_path], cwd=unpacked, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"qformat"}
    assert not [name for name in names if name.endswith((".cpp", ".h", ".hpp", "CMakeLists.txt"))]
    assert len([name for name in names if name.endswith(".so")]) == 3
    assert "qformat/converters/methods/rtn.py" in names

    # the libraries come from this environment, the package from the wheel alone
    place = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place, wheel]
    subprocess.run(install, check=True, capture_output=True)
    assert not (place / "converters").exists()
    code = (
        f"import sys; sys.meta_path = [f for f in sys.meta_path if 'Redirect' not in type(f).__name__]; "
        f"sys.path.insert(0, {str(place)!r}); import qformat, qformat.kernels._native, qformat.container._native; "
        f"import qformat.converters.methods._native; "
        f"assert qformat.__file__.startswith({str(place)!r}), qformat.__file__"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
