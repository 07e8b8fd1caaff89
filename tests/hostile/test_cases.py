"""tests/cases.md lists all 170 cases, and every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.hostile import cases

ROOT = Path(__file__).parents[2]
NUMBERS = {name[:3] for name, *_ in cases.every()}
ROWS = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]*) \|$", (ROOT / "tests/cases.md").read_text(), re.M)


def test_all_cases_are_listed() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 171))


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_case_names_a_test_or_a_reason(row: tuple[str, str, str, str]) -> None:
    number, _, where, note = row
    named = re.findall(r"`([^`]+)`", where)
    assert named or note.strip()
    for test in named:
        path, _, function = test.partition("::")
        name = function.partition("[")[0]
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M) and name.startswith("test_"), test
        if "[" in function:
            assert f"{int(number):03d}" in NUMBERS
