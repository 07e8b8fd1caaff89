"""`qformat bench`: what it reports, never how fast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import qformat
from tests.cli.command_line import call, terminal


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (32, 64), "b.weight": (32, 64), "c.weight": (17, 128), "norm.weight": (64,)}
    save_file({n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}, folder / "m.safetensors")
    qformat.convert(folder / "m.safetensors", folder / "m.qf", method="rtn", bits=4, group_size=64)
    return folder / "m.qf"


def test_every_kind_is_timed_in_every_operation(tiny: Path) -> None:
    result = call("bench", tiny, "--json", "--rounds", 1)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    rows = {(tuple(r["shape"]), r["operation"]): r for r in found["tensors"]}
    shapes = {(32, 64): 2, (17, 128): 1}
    assert set(rows) == {(s, o) for s in shapes for o in ("matvec exact", "matvec int8", "decode")}
    for (shape, _), row in rows.items():
        assert row["tensors"] == shapes[shape] and row["bits"] == 4 and row["coding"] == "affine"
        assert min(row["bytes_per_second"], row["weights_per_second"]) > 0
        assert row["share"] is None  # so little stays in the caches
    assert found["tokens_per_second"] is None


@pytest.mark.parametrize("columns", [40, 80])
def test_lines_fit_the_terminal(tiny: Path, columns: int) -> None:
    lines = terminal(["bench", tiny, "--rounds", 1], columns, {"NO_COLOR": "1"}).splitlines()
    assert len(lines) > 6 and max(map(len, lines)) <= columns


def test_a_file_that_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "x.qf").write_bytes(b"nothing")
    assert call("bench", tmp_path / "x.qf").code != 0
