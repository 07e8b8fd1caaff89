"""Every hostile file ends in its typed error, inside of a process with 10 s of CPU and 200 MB above its baseline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.container.files import sample
from tests.hostile import cases

ROOT = Path(__file__).parents[2]
CASES = cases.every()
MEMORY = 200 << 20


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, object]:
    """What each case ended in, by its number in CASES; whatever killed the child is the outcome of that case alone."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "valid.qf").write_bytes(sample())
    for number, (_, raw, _, _) in enumerate(CASES):
        (folder / f"{number}.qf").write_bytes(raw)
    found: dict[int, object] = {}
    left = list(range(len(CASES)))
    while left:
        paths = [str(folder / "valid.qf"), *(str(folder / f"{number}.qf") for number in left)]
        child = subprocess.run(
            [sys.executable, "-P", "-m", "tests.hostile.child", *paths],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        lines = [json.loads(line) for line in child.stdout.splitlines()]
        assert lines, child.stderr
        for line in lines:
            outcome: object = f"died: {child.returncode}: {child.stderr[-300:]}"
            if len(line) == 3:
                outcome = line[1] if line[2] <= MEMORY else f"took {line[2]} bytes"
            found[int(Path(line[0]).stem)] = outcome
        left = [number for number in left if number not in found]
    return found


@pytest.mark.parametrize("number", range(len(CASES)), ids=[name for name, *_ in CASES])
def test_case(outcomes: dict[int, object], number: int) -> None:
    _, _, error, text = CASES[number]
    outcome = outcomes[number]
    if error is None:
        assert outcome is None
    elif error == "":
        assert isinstance(outcome, list) or outcome is None, outcome
    else:
        assert isinstance(outcome, list), outcome
        assert outcome[0] == error, outcome
        assert text in outcome[1]
        assert f"{number}.qf" in outcome[1]  # it names the file


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({name for name, *_ in CASES}) == len(CASES)
