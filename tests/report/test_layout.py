"""Lines fit their width, whatever is in them."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from qformat.report.layout import Column, cells, clip, line_cells, pad, render, wrap
from qformat.report.terminal import Printer
from qformat.text import safe_text

shown = st.text(max_size=40).map(safe_text)
widths = st.integers(1, 200)


@given(shown, widths, st.sampled_from(["end", "middle"]))
def test_clip_fits(text: str, width: int, where: str) -> None:
    cut = clip(text, width, where)  # type: ignore[arg-type]
    assert cells(cut) <= width
    assert (cut == text) == (cells(text) <= width)


@given(shown, widths)
def test_pad_keeps_the_text(text: str, width: int) -> None:
    for align in ("left", "right"):
        padded = pad(text, width, align)  # type: ignore[arg-type]
        assert padded.strip(" ") == text.strip(" ")
        assert cells(padded) == max(width, cells(text))


@given(st.text(max_size=200).map(safe_text), st.integers(2, 100))
def test_wrap_fits_and_loses_nothing(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert all(cells(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@given(st.data(), st.integers(1, 200))
def test_tables_fit(data: st.DataObject, width: int) -> None:
    n_columns, elastic = data.draw(st.integers(1, 5)), data.draw(st.booleans())
    columns = [
        Column(data.draw(shown), data.draw(st.sampled_from(["left", "right"])), data.draw(st.integers(0, 9)),
               elastic=elastic and index == 0, least=data.draw(st.integers(1, 30)))
        for index in range(n_columns)
    ]  # fmt: skip
    rows = data.draw(st.lists(st.tuples(*[shown] * n_columns), max_size=6))
    lines = list(render(columns, rows, width))
    assert all(line_cells(line) <= width for line in lines)
    if any(row[0] for row in rows):  # the elastic column is the last to go
        assert len(lines) >= len(rows)


@given(st.lists(st.tuples(st.text(), st.sampled_from(["", "bad"])), max_size=3))
def test_text_that_nobody_made_safe_is_made_safe(line: list[tuple[str, str]]) -> None:
    stream = io.StringIO()
    Printer(stream).lines([line])
    assert stream.getvalue()[:-1].isprintable()


@given(st.lists(st.tuples(shown, st.sampled_from(["", "dim", "bad", "bar"])), max_size=4))
def test_a_pipe_gets_no_control_bytes(line: list[tuple[str, str]]) -> None:
    stream = io.StringIO()
    Printer(stream).lines([line])
    assert stream.getvalue() == "".join(text for text, _ in line).rstrip(" ") + "\n"
    assert stream.getvalue()[:-1].isprintable()


def test_a_stream_without_unicode_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    printer = Printer(stream)
    printer.line("0–31 × █▍ … │├└ ü")
    stream.flush()
    assert raw.getvalue() == b"0-31 x #- ~ ||` \\xfc\n"


def test_colour_only_where_it_is_wanted(monkeypatch: object) -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    import pytest

    assert isinstance(monkeypatch, pytest.MonkeyPatch)
    monkeypatch.setenv("TERM", "xterm")
    for no_color, expected in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", no_color)
        stream = Terminal()
        Printer(stream).line(("x", "bad"))
        assert ("\x1b" in stream.getvalue()) is expected
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    Printer(stream).line(("x", "bad"))
    assert stream.getvalue() == "x\n"
