"""What the samples of a benchmark become: which count, whom one is compared with, what a file keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rounds
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.rows import SHAPE, row, sample


def test_a_row_is_medians_of_its_samples() -> None:
    found = row("ours")
    assert found.weights_per_second == 64 * 32 / 1e-6
    assert found.bytes_per_second == found.weights_per_second / 2
    assert found.plain_speed == 2e9
    assert found.limit == 4e9
    assert found.share == pytest.approx(0.5 * (1024 / 0.5e-6 + 1024 / 1e-6) / 2e9)  # each against its own round


def test_samples_that_others_disturbed_or_that_saw_two_states_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    taken = [
        ("a", 2, 1, sample()), ("a", 2, 1, sample(seconds=3e-6)), ("a", 2, 1, sample(state="SMT")),
        ("a", 1, 1, sample()), ("a", 2, 1, sample(state="moved")), ("b", 2, 1, sample(others=rounds.FOREIGN + 0.01)),
        ("a", 2, 1, sample(pages="huge", others=rounds.FOREIGN)),
    ]  # fmt: skip
    found = rounds._rows("gemv 4", SHAPE, taken)
    assert {(r.subject, r.pages, r.threads, r.state): r.seconds for r in found} == {
        ("a", "file", 2, "1CCD"): [1e-6, 3e-6],
        ("a", "file", 2, "SMT"): [1e-6],
        ("a", "file", 1, "1CCD"): [1e-6],
        ("a", "huge", 2, "1CCD"): [1e-6],
    }
    assert all(r.bits == 4 for r in found)
    assert capsys.readouterr().out.startswith("2 of 7 samples left out")


@pytest.mark.parametrize(
    ("peer", "counts"),
    [
        ({}, True), ({"pages": "heap"}, True), ({"threads": 1}, True), ({"pages": "huge"}, False),
        ({"threads": 4}, False), ({"state": "SMT"}, False), ({"piece": "gemv 2"}, False), ({"batch": 8}, False),
        ({"shape": (64, 64)}, False),
    ],
)  # fmt: skip
def test_one_is_compared_with_peers_that_had_the_same(peer: dict[str, object], counts: bool) -> None:
    ours, other = row("ours", 1e-6), row("peer", 2e-6, **peer)
    assert rounds.ratio(ours, [ours, other], ["ours"]) == (2.0 if counts else None)
    assert rounds.ratio(other, [ours, other], ["ours"]) is None  # only ours have a ratio


def test_the_fastest_peer_counts() -> None:
    rows = [row("ours", 2e-6), row("slow", 8e-6), row("fast", 1e-6), row("also ours", 1e-7)]
    assert rounds.ratio(rows[0], rows, ["ours", "also ours"]) == 0.5


def test_a_file_keeps_what_was_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "results" / "x.json"
    old = [row("a", piece="gemv 4"), row("a", piece="gemv 2"), row("a", piece="gemv 4", shape=(8, 8))]
    rounds.save(path, 64, [vars(each) for each in old])
    new = row("b", 3e-6, piece="gemv 4")
    rounds.save(path, 64, [vars(new)])
    assert sorted(map(str, rounds.load(path))) == sorted(map(str, [new, *old[1:]]))
    assert json.loads(path.read_text())["machine"]["mib"] == 64


@given(st.floats(1e-12, 1e15))
def test_numbers_in_files_have_five_digits(value: float) -> None:
    (once,) = rounds._rounded({"x": [value]})["x"]
    assert abs(once - value) <= 5.1e-5 * value
    assert rounds._rounded(once) == once


def test_the_table_fits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rounds.show([row("ours"), row("peer", 2e-6, pages="heap"), row("peer", pages="huge")], ["ours"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["subject", "ours", "peer", "peer"]
    assert lines[1].split()[-1] == "2.00"


def test_shapes_are_read() -> None:
    assert rounds.sides("14336x4096") == (14336, 4096)
