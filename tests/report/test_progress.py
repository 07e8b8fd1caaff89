"""The progress line: within its width, and only whole facts where there is room for them."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from qformat.report.layout import cells
from qformat.report.progress import Progress


@given(done=st.integers(0, 10**9), width=st.integers(10, 200), note=st.text(max_size=60))
def test_a_line_fits_and_a_note_takes_no_room_from_it(done: int, width: int, note: str) -> None:
    line = Progress(10**9, "convert", stream=io.StringIO())
    line.done = done
    without = line.text(3.0, width)
    line.note = note
    shown = line.text(3.0, width)
    assert cells(shown) < width
    assert shown.startswith(without)


def test_what_is_no_terminal_gets_whole_lines_now_and_then() -> None:
    stream = io.StringIO()
    with Progress(100, "verify", unit="tensor", stream=stream) as line:
        line.update(10)
        assert stream.getvalue() == ""  # a log stays short
        line._last -= 3600
        line.update(50, "a.weight")
    assert stream.getvalue().startswith("verify 50.0 %, 50 of 100 tensors, ")
    assert stream.getvalue().count("\n") == 1
