"""`qformat bench`: what it reports, never how fast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import qformat
from tests.cli.command_line import call, terminal

MODEL = Path(__file__).parents[1] / "data" / "stories260K"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    rng = np.random.default_rng(0)
    shapes = {f"{name}.weight": (32, 128) for name in "abde"} | {"c.weight": (17, 64), "norm.weight": (64,)}
    save_file({n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}, folder / "m.safetensors")
    # groups of 32 as panels, groups of 8 as plain rows
    rules = [{"match": "d.weight", "group_size": 32}, {"match": "e.weight", "group_size": 8}]
    recipe = {"method": "rtn", "bits": 4, "group_size": 64, "rules": rules}
    qformat.convert(folder / "m.safetensors", folder / "m.qf", recipe=recipe)
    return folder / "m.qf"


def test_every_kind_is_timed_in_every_operation(tiny: Path) -> None:
    result = call("bench", tiny, "--json", "--rounds", 1)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    rows = {(tuple(r["shape"]), r["group_size"], r["layout"], r["operation"]): r for r in found["tensors"]}
    kinds = {
        ((32, 128), 64, "panel"): 2,
        ((17, 64), 64, "panel"): 1,
        ((32, 128), 32, "panel"): 1,
        ((32, 128), 8, "plain"): 1,
    }
    assert set(rows) == {(*kind, o) for kind in kinds for o in ("matvec exact", "matvec int8", "decode")}
    for (*kind, _), row in rows.items():
        assert row["tensors"] == kinds[*kind] and row["bits"] == 4 and row["coding"] == "affine"
        assert min(row["bytes_per_second"], row["weights_per_second"]) > 0
        assert row["share"] is None  # so little stays in the caches
    assert found["tokens_per_second"] is None


@pytest.mark.parametrize("columns", [40, 80])
def test_lines_fit_the_terminal(tiny: Path, columns: int) -> None:
    lines = terminal(["bench", tiny, "--rounds", 1], columns, {"NO_COLOR": "1"}).splitlines()
    assert len(lines) > 6 and max(map(len, lines)) <= columns


def test_a_whole_model_reads_and_writes(tmp_path: Path) -> None:
    qformat.convert(MODEL, tmp_path / "m.qf", method="rtn", bits=4)
    result = call("bench", tmp_path / "m.qf", "--model", "--json", "--rounds", 1)
    assert result.code == 0, result.err
    tokens = json.loads(result.out)["tokens_per_second"]
    assert {"prefill", "decode"} <= set(tokens) and min(tokens["prefill"], tokens["decode"]) > 0
    lines = call("bench", tmp_path / "m.qf", "--model", "--rounds", 1).out.splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["prefill", "decode"]


def test_a_file_that_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "x.qf").write_bytes(b"nothing")
    assert call("bench", tmp_path / "x.qf").code != 0
