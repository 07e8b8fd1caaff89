"""How numbers are written: what must hold for every number."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat.report import numbers


@given(st.integers(0, 10**21))
def test_size_is_short_and_right_to_three_digits(n_bytes: int) -> None:
    text, unit = numbers.size(n_bytes).split(" ")
    assert len(text) <= 4 or n_bytes >= 10**21
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15, "EB": 1e18}[unit]
    assert float(text) * factor == pytest.approx(n_bytes, rel=0.0051)


@given(st.floats(0, 1e12))
def test_seconds_never_shows_sixty(value: float) -> None:
    assert not re.search(r"\b60\b", numbers.seconds(value)) or value >= 3600 * 60


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_percent_is_whole_only_when_it_is(part: int, rest: int) -> None:
    text = numbers.percent(part, part + rest)
    assert text != "100 %"
    assert (text == "0 %") == (part == 0)


@given(st.sets(st.integers(0, 300)))
def test_ranges_name_every_number_once(chosen: set[int]) -> None:
    shown = []
    for run in filter(None, numbers.ranges(chosen).split(", ")):
        first, _, last = run.partition("–")
        shown += range(int(first), int(last or first) + 1)
    assert shown == sorted(chosen)


@given(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)))
def test_error_is_short(value: float | None) -> None:
    assert len(numbers.error(value)) <= 10
