"""The tables of benchmarks/README.md."""

from __future__ import annotations

import pytest
import summary
from layers import LAYERS
from subjects import OURS

from tests.benchmarks.rows import SHAPE, row

NAME = next(iter(OURS))


def cells(table: str) -> list[list[str]]:
    """The table's lines, apart; every line has as many cells."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert len({len(line) for line in found}) == 1
    return found


def test_products_say_share_speed_and_ratio() -> None:
    rows = [row(NAME, 1e-6), row("peer", 2e-6, pages="heap"), row(NAME, 2e-6, threads=1)]
    titles, _, *lines = cells(summary.products(rows))
    assert [line[0] for line in lines] == [NAME, "peer"]  # ours come first
    said = dict(zip(titles, lines[0], strict=True))
    assert (said["bits"], said["Gw/s, file"], said["× peer, file"], said["Gw/s"]) == ("4.00", "2.05", "2.00", "1.02")
    assert said["share, file"] == summary.share(rows[0])
    assert lines[0][3] == "–"  # huge pages were not measured
    assert dict(zip(titles, lines[1], strict=True))["× peer, file"] == "–"


@pytest.mark.parametrize("table", [summary.decoding, summary.prefill])
def test_other_tables_have_a_line_for_each(table: object) -> None:
    names = [*LAYERS][:2]
    rows = [row(name, batch=batch) for name in names for batch in (1, 8)]
    lines = cells(table(rows))[2:]  # type: ignore[operator]
    assert [line[0] for line in lines] == (["1", "8"] if table is summary.prefill else names)


def test_a_state_with_fewer_than_half_of_the_subjects_has_no_table() -> None:
    seen = [row(name) for name in "abc"] + [row("a", state="SMT")] + [row(name, state="2CCD") for name in "ab"]
    assert [title for title, _ in summary.tables(seen)] == [f"{SHAPE[0]}×{SHAPE[1]}, {s}" for s in ("1CCD", "2CCD")]
