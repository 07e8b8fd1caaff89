"""Where lines meet the outside: width, colour, characters the stream can show.

Colour and escape sequences go to terminals only; a pipe or file gets plain text without one control byte but the
newline. NO_COLOR (https://no-color.org) and TERM=dumb are honoured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TextIO

from qformat.report.layout import Line, line_cells, wrap
from qformat.text import safe_text

_SGR = {
    "": "",
    "title": "1",
    "name": "1",
    "dim": "2",
    "group": "36",
    "number": "32",
    "key": "2",
    "good": "32",
    "warn": "33",
    "bad": "31;1",
    "bar": "36",
}

# What a stream that cannot show Unicode gets instead: the same number of cells.
_ASCII = str.maketrans(
    {"–": "-", "×": "x", "…": "~", "│": "|", "├": "|", "└": "`", "─": "-", "·": ".", "→": ">", "±": "+", "≤": "<"}
    | dict.fromkeys("█▉▊▋▌", "#")
    | dict.fromkeys("▍▎▏", "-")
)


class Printer:
    """Writes lines to a text stream: fitted, coloured and encoded as the stream allows.

    `width` is the number of cells of a line, None for a stream without an edge (a pipe: nothing is cut there).
    """

    def __init__(self, stream: TextIO | None = None, *, width: int | None = None, colour: bool | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.terminal = is_terminal(self.stream)
        self.width = terminal_width(self.stream) if width is None else width
        self.colour = wants_colour(self.stream) if colour is None else colour
        self.unicode = _shows_unicode(self.stream)

    def line(self, *spans: tuple[str, str] | str) -> None:
        """Print one line of spans; a plain string is a span without style."""
        self.lines([[(span, "") if isinstance(span, str) else span for span in spans]])

    def ok(self, text: str) -> None:
        """Say that something went well, in as many lines as it takes."""
        first, *rest = [text] if self.width is None else wrap(safe_text(text), max(self.width - 4, 1))
        self.line(("ok", "good"), f"  {first}")
        for part in rest:
            self.line(f"    {part}")

    def lines(self, lines: Iterable[Line]) -> None:
        """Print many lines, a few hundred at a time, so that a closed pipe is noticed early."""
        batch: list[str] = []
        for line in lines:
            batch.append(self.format(line))
            if len(batch) >= 256:
                self._write(batch)
                batch = []
        self._write(batch)

    def format(self, line: Line) -> str:
        """One line as the text that is written, without the newline; what could steer a terminal becomes an escape."""
        text = "".join([part for part, _ in line])
        if not text.isprintable():
            line = [(safe_text(part), style) for part, style in line]
            text = "".join([part for part, _ in line])
        if self.colour:
            text = "".join(
                f"\x1b[{_SGR[style]}m{part}\x1b[0m" if _SGR.get(style) and part else part for part, style in line
            )
        else:
            text = text.rstrip(" ")
        return text if self.unicode or text.isascii() else _to_ascii(text)

    def _write(self, batch: list[str]) -> None:
        if batch:
            self.stream.write("\n".join(batch) + "\n")


def is_terminal(stream: TextIO) -> bool:
    """Whether `stream` is a terminal (closed and odd streams are not)."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def terminal_width(stream: TextIO) -> int | None:
    """COLUMNS if it is a positive number, else the terminal's width, else None."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isascii() and asked.isdigit() and int(asked[:6]) > 0:
        return int(asked[:6])
    if not is_terminal(stream):
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def wants_colour(stream: TextIO) -> bool:
    """Colour: on a terminal that is not dumb, unless NO_COLOR is set and not empty."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _shows_unicode(stream: TextIO) -> bool:
    encoding = getattr(stream, "encoding", None)  # None: a stream of text that is never encoded
    return encoding is None or encoding.lower().replace("-", "").replace("_", "").startswith("utf")


def _to_ascii(text: str) -> str:
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def fits(line: Line, width: int | None) -> bool:
    """Whether a line stays inside the width."""
    return width is None or line_cells(line) <= width


def message(prefix: str, text: object) -> str:
    """A one-line message for stderr: `error: …`, safe to show wherever it came from."""
    return f"{prefix}: {safe_text(text)}"
