"""What a benchmark knows of the machine: where its cores are, what its memory is."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import inspection
import machine
import numpy as np
import pytest


@pytest.mark.parametrize(
    ("complexes", "cores", "sharing", "trip", "state"),
    [
        (True, 1, 1.0, 10, "1"), (True, 2, 1.9, 10, "SMT"), (True, 2, 1.0, 60, "1CCD"), (True, 2, 1.0, 400, "2CCD"),
        (True, 2, 1.4, 149, "1CCD"), (False, 2, 1.0, 60, "2C"), (False, 2, 1.0, 400, "2C"), (False, 2, 1.9, 10, "SMT"),
    ],
)  # fmt: skip
def test_where_the_cores_are(
    monkeypatch: pytest.MonkeyPatch, complexes: bool, cores: int, sharing: float, trip: float, state: str
) -> None:
    monkeypatch.setattr(machine, "_has_complexes", lambda: complexes)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(machine, "_native", lambda: SimpleNamespace(sharing=lambda: sharing, round_trip=lambda: trip))
    assert machine.state() == state


def test_memory_that_is_new_is_told_from_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    step = machine.LARGE
    start = np.zeros(6 * step, np.uint8).ctypes.data
    monkeypatch.setattr(machine, "private", lambda: [(start, start + 5 * step)])
    before = [(start + step, start + 2 * step), (start + 4 * step, start + 5 * step - 1)]
    found = [(a.ctypes.data - start, a.nbytes) for a in machine.new_since(before)]
    assert found == [(0, step), (2 * step, 2 * step)]  # a byte at the end is nobody's copy of weights


def test_neighbours_are_one_area() -> None:
    whole = np.arange(200_000, dtype=np.uint8)
    start = whole.ctypes.data
    pieces = [(start + 50_000, 10), (start, 100), (start + 100 + machine.GAP, 5)]
    found = machine.joined(pieces)
    assert [(a.ctypes.data - start, a.nbytes) for a in found] == [(0, 105 + machine.GAP), (50_000, 10)]
    assert np.array_equal(found[0], whole[: 105 + machine.GAP])


def test_what_others_had_is_never_less_than_nothing() -> None:
    moment = machine.others()
    assert sum(range(100_000)) and moment.since() >= 0


def test_each_round_takes_every_measurement_once() -> None:
    calls: list[str] = []
    work = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b") or 0.25}
    times = inspection.measure(work, 3)
    assert calls == ["a", "b"] * 4  # one round does not count
    assert times["b"] == [0.25] * 3 and len(times["a"]) == 3


def test_a_file_written_anew_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 41)
    machine.rewrite(path, 1000)
    assert path.read_bytes() == bytes(range(256)) * 41
    assert os.listdir(tmp_path) == ["x"]
