"""Comparing models: structure, values, what counts as equal."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from qformat.report import compare as module
from qformat.report import comparison
from qformat.report.compare import Comparison, compare
from qformat.report.layout import line_cells
from tests.cli.command_line import call


def write(path: Path, tensors: dict[str, NDArray[Any]]) -> Path:
    save_file(tensors, path)
    return path


def kinds(result: Comparison) -> dict[str, str]:
    return {each.name: each.kind for each in result.tensors}


def test_structure_then_values(tmp_path: Path) -> None:
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    a = write(tmp_path / "a.safetensors", {"same": base, "gone": base, "shape": base, "dtype": base, "values": base})
    other = base.copy()
    other[1, 1] += 0.5
    b = write(
        tmp_path / "b.safetensors",
        {"same": base, "new": base, "shape": base.T.copy(), "dtype": base.astype(np.float16), "values": other},
    )
    result = compare(a, b)
    assert kinds(result) == {
        "same": "same", "gone": "only in A", "new": "only in B", "shape": "shape", "dtype": "dtype", "values": "values",
    }  # fmt: skip
    found = next(each for each in result.tensors if each.name == "values")
    assert found.max_abs == 0.5
    assert found.relative == pytest.approx(0.5 / np.linalg.norm(other))
    assert result.differs()
    assert not compare(a, a).differs()


def test_structure_alone_reads_no_value(tmp_path: Path) -> None:
    a = write(tmp_path / "a.safetensors", {"x": np.zeros(3, np.float32)})
    b = write(tmp_path / "b.safetensors", {"x": np.ones(3, np.float32)})
    assert not compare(a, b, values=False).differs()
    assert compare(a, b).differs()


def test_tolerance(tmp_path: Path) -> None:
    x = np.ones((8, 8), np.float32)
    a, b = write(tmp_path / "a.safetensors", {"x": x}), write(tmp_path / "b.safetensors", {"x": x * 1.01})
    result = compare(a, b)
    assert result.differs(0.009)
    assert not result.differs(0.011)


def test_equal_nans_and_infinities_are_equal_and_unequal_ones_are_not(tmp_path: Path) -> None:
    x = np.array([1, np.nan, np.inf, -np.inf], np.float32)
    a = write(tmp_path / "a.safetensors", {"x": x})
    b = write(tmp_path / "b.safetensors", {"x": np.array([1, np.nan, np.inf, np.inf], np.float32)})
    c = write(tmp_path / "c.safetensors", {"x": np.array([1, 0, np.inf, -np.inf], np.float32)})
    assert not compare(a, a).differs()
    assert compare(a, b).differs(tolerance=1e30)
    assert compare(a, c).differs(tolerance=1e30)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_tiles_change_nothing(tmp_path_factory: pytest.TempPathFactory, n: int, k: int, tile: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, n, k, 3)).astype(np.float32)
    folder = tmp_path_factory.mktemp("tiles")
    a, b = write(folder / "a.safetensors", {"x": x}), write(folder / "b.safetensors", {"x": y})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE", tile)
        found = compare(a, b).tensors[0]
    assert found.max_abs == np.abs(x.astype(np.float64) - y).max()
    assert found.relative == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(y), rel=1e-5)


def test_zero_sized_and_scalar_tensors(tmp_path: Path) -> None:
    x = {
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(2.0, np.float32),
        "none": np.zeros((3, 0), np.float32),
    }
    a = write(tmp_path / "a.safetensors", x)
    b = write(tmp_path / "b.safetensors", {**x, "scalar": np.array(3.0, np.float32)})
    assert not compare(a, a).differs()
    assert kinds(compare(a, b)) == {"empty": "same", "none": "same", "scalar": "values"}


def test_layers_that_differ_alike_are_one_line(tmp_path: Path) -> None:
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    names = [f"layers.{layer}.up.weight" for layer in range(3)]
    save_file({name: np.ones((4, 8), np.float32) for name in names}, a)
    save_file({name: np.full((4, 8), 1 + 2.0**-layer, np.float32) for layer, name in enumerate(names)}, b)
    found = [line.split() for line in call("diff", a, b).out.splitlines() if line.startswith("layers.")]
    assert [line[:2] for line in found] == [["layers.*.up.weight", "(3)"]]
    assert found[0][-2:] == ["1.00", "0.500"]
    each = call("diff", "--tensors", a, b).out
    assert all(name in each for name in names)


def test_a_difference_from_zero_is_infinite(tmp_path: Path) -> None:
    a = write(tmp_path / "a.safetensors", {"x": np.ones(3, np.float32)})
    b = write(tmp_path / "b.safetensors", {"x": np.zeros(3, np.float32)})
    assert compare(a, b).tensors[0].relative == math.inf
    result = call("diff", "--json", a, b)
    assert json.loads(result.out)["tensors"][0]["relative"] == "inf"


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_lines_fit(tmp_path: Path, width: int) -> None:
    a = write(tmp_path / "a.safetensors", {f"model.layers.{n}.x": np.ones((3, n), np.float32) for n in range(5)})
    b = write(tmp_path / "b.safetensors", {f"model.layers.{n}.x": np.ones((n, 3), np.float32) for n in range(4)})
    for line in comparison.lines(compare(a, b), width):
        assert line_cells(line) <= width


def test_the_verb(tmp_path: Path) -> None:
    a = write(tmp_path / "a.safetensors", {"x": np.ones(3, np.float32), "y": np.ones(3, np.float32)})
    b = write(tmp_path / "b.safetensors", {"x": np.ones(3, np.float32), "y": np.ones(3, np.float32) * 2})
    assert call("diff", a, a).code == 0
    result = call("diff", a, b)
    assert result.code == 1
    assert "y" in result.out
    assert result.err == ""
    assert call("diff", "-q", a, b).out.count("\n") == 1
    assert json.loads(call("diff", "--json", a, b).out)["differs"] is True
    assert call("diff", "--tolerance", "0.6", a, b).code == 0
    assert call("diff", "--structure", a, b).code == 0
