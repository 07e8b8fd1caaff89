"""The conformance vectors: what the library and the specification's own reader make of every one of them."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import make_vectors
import numpy as np
import pytest
import reader

import qformat
from qformat import errors

SPEC = Path(__file__).parents[2] / "spec"
VALID = sorted((SPEC / "vectors" / "valid").glob("*.qf"))
INVALID = sorted((SPEC / "vectors" / "invalid").glob("*.qf"))

COMPRESSED = {"container-features", "additive-panels"}


def _expected(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(file.with_suffix(".npz"), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def test_the_folders_are_not_empty() -> None:
    assert len(VALID) >= 15
    assert len(INVALID) >= 60
    assert {file.stem for file in VALID} == {file.stem for file in (SPEC / "vectors" / "valid").glob("*.npz")}
    assert {file.stem for file in INVALID} == {file.stem for file in (SPEC / "vectors" / "invalid").glob("*.json")}


@pytest.mark.parametrize("file", VALID, ids=lambda file: file.stem)
def test_the_library_decodes_every_valid_vector(file: Path) -> None:
    qformat.verify(file)
    expected = _expected(file)
    with qformat.open(file) as model:
        assert set(expected) <= set(model)
        for name, weights in expected.items():
            found = model[name].decode("complex64" if weights.dtype.kind == "c" else "float32")
            assert found.shape == weights.shape
            assert np.array_equal(found, weights, equal_nan=True), name


@pytest.mark.parametrize("file", VALID, ids=lambda file: file.stem)
def test_the_reader_of_the_specification_decodes_every_valid_vector(file: Path) -> None:
    opened = reader.File(file)
    expected = _expected(file)
    with qformat.open(file) as model:
        assert opened.names() == list(model)
        assert opened.metadata == model.metadata
    for name, weights in expected.items():
        found = opened.decode(name)
        assert found.shape == weights.shape
        assert np.array_equal(found, weights, equal_nan=True), name


def _read_all(file: Path) -> None:
    qformat.verify(file)
    with qformat.open(file) as model:  # what is only unsupported is sound as bytes
        for tensor in model.values():
            tensor.decode()


@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_the_library_refuses_every_invalid_vector(file: Path) -> None:
    expected = json.loads(file.with_suffix(".json").read_text())
    with pytest.raises(getattr(errors, expected["error"])) as caught:
        _read_all(file)
    assert type(caught.value).__name__ == expected["error"]
    assert caught.value.tensor == expected["tensor"]
    assert expected["field"] is None or caught.value.field == expected["field"]
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_the_reader_of_the_specification_refuses_every_invalid_vector(file: Path) -> None:
    unsupported = json.loads(file.with_suffix(".json").read_text())["error"] == "UnsupportedError"
    with pytest.raises(reader.UnsupportedError if unsupported else reader.InvalidError):
        reader.File(file).decode_all()


@pytest.mark.parametrize(
    ("name", "libraries"), [("reader", {"decoder", "numpy", "blake3", "xxhash", "zstandard"}), ("decoder", {"numpy"})]
)
def test_the_reader_shares_no_code_with_the_library(name: str, libraries: set[str]) -> None:
    tree = ast.parse((SPEC / f"{name}.py").read_text())
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported <= sys.stdlib_module_names | libraries


def test_vectors_are_never_written_again() -> None:
    files = [*VALID, *INVALID]
    before = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in files}
    make_vectors.main()
    assert {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in files} == before
    assert set((SPEC / "vectors").rglob("*.qf")) == set(files)


def test_vectors_are_what_their_script_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packer and writer have not changed: the same script still makes the same files."""
    monkeypatch.setattr(make_vectors, "FOLDER", tmp_path)
    make_vectors.main()
    for file in (*VALID, *INVALID):
        made = tmp_path / file.parent.name / file.name
        if file.stem in COMPRESSED:  # another version of zstd may find shorter frames
            with qformat.open(made) as new, qformat.open(file) as old:
                assert all(np.array_equal(new[name].decode(), old[name].decode()) for name in old)
        else:
            assert made.read_bytes() == file.read_bytes(), file.name
