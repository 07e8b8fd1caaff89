"""One line on stderr that says how far a long job is: share, rate, time left.

On a terminal the line is redrawn in place; elsewhere a plain line is written now and then, so that a log stays short.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from qformat.report import numbers
from qformat.report.layout import cells, clip
from qformat.report.summary import bar
from qformat.report.terminal import Printer
from qformat.text import safe_text

REDRAW = 0.1  # seconds between two drawings on a terminal
LOG = 15.0  # seconds between two lines of a log
BAR = 20
NOTE = 12  # cells below which a note says nothing


class Progress:
    """A progress line over `total` units (bytes by default), to be used in a `with`.

    `update(done, note)` says how many units are done in all; it may be called from any thread, as often as one likes.
    """

    def __init__(
        self, total: int, label: str, *, unit: str = "B", stream: TextIO | None = None, quiet: bool = False
    ) -> None:
        self.total, self.label, self.unit, self.quiet = total, label, unit, quiet
        self.printer = Printer(sys.stderr if stream is None else stream)
        self.done, self.note, self._drawn = 0, "", False
        self.start = self._last = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def update(self, done: int, note: str = "") -> None:
        """`done` units of the total are done; `note` says what is being worked on."""
        self.done, self.note = done, note
        now = time.monotonic()
        if self.quiet or now - self._last < (REDRAW if self.printer.terminal else LOG):
            return
        self._last = now
        if self.printer.terminal:
            self._draw(self.text(now - self.start, self.printer.width or 80))
        else:
            self.printer.stream.write(self.text(now - self.start, None) + "\n")
            self.printer.stream.flush()

    def text(self, elapsed: float, width: int | None) -> str:
        """The line after `elapsed` seconds."""
        share = min(self.done / self.total, 1.0) if self.total else 1.0
        parts = [f"{self.label} {numbers.percent(share, 1.0):>6}"]
        if self.unit == "B":
            parts.append(f"{numbers.size(self.done)} of {numbers.size(self.total)}")
            parts.append(numbers.rate(self.done, elapsed))
        else:
            parts.append(f"{numbers.exact(self.done)} of {numbers.plural(self.total, self.unit)}")
        if 0 < share < 1:
            parts.append(f"{numbers.seconds(elapsed / share - elapsed)} left")
        text = ", ".join(parts)
        if width is None:
            return text
        drawn = bar(share, BAR)
        if cells(text) + BAR + 2 <= width - 1:
            text = f"{drawn}{' ' * (BAR - cells(drawn))}  {text}"
        room = width - 1 - cells(text) - 2  # the last cell stays free: some terminals wrap when it is written
        if self.note and room >= NOTE:
            text += f"  {clip(safe_text(self.note), room)}"
        return clip(text, width - 1)

    def _draw(self, text: str) -> None:
        shown = self.printer.format([(text, "")])
        self.printer.stream.write(f"\r\x1b[K{shown}" if shown else "\r\x1b[K")
        self.printer.stream.flush()
        self._drawn = bool(shown)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._drawn:
            self._draw("")
