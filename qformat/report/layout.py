"""Laying out text in a given width: styled lines, tables whose columns give way by priority, wrapping.

A `Line` is a list of (text, style) spans; styles are names ("dim", "name", "bad" …) that only `terminal` turns into
colour. Every text that comes from a file is made safe before it becomes a span, so a width can be counted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

Span = tuple[str, str]
Line = list[Span]

GAP = 2  # columns of a table stand two cells apart


def cells(text: str) -> int:
    """How many terminal cells `text` takes: wide East Asian characters two, combining marks none."""
    return len(text) if text.isascii() else _wide_cells(text)


@lru_cache(4096)
def _wide_cells(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def clip(text: str, width: int, where: Literal["end", "middle"] = "end") -> str:
    """`text` in at most `width` cells; what is left out becomes one "…".

    >>> clip("model.layers.0.mlp.up_proj", 12), clip("model.layers.0.mlp.up_proj", 12, "middle")
    ('model.layer…', 'model.…_proj')
    """
    if cells(text) <= width:
        return text
    if width <= 1:
        return "…"[:width]
    left = width - 1 if where == "end" else width // 2
    head = _take(text, left)
    tail = "" if where == "end" else _take(text[::-1], width - 1 - cells(head))[::-1]
    return f"{head}…{tail}"


def _take(text: str, width: int) -> str:
    """The longest prefix of `text` in `width` cells."""
    if text.isascii():
        return text[: max(width, 0)]
    used = 0
    for index, character in enumerate(text):
        used += cells(character)
        if used > width:
            return text[:index]
    return text


def pad(text: str, width: int, align: Literal["left", "right"] = "left") -> str:
    """`text` filled with spaces up to `width` cells."""
    space = " " * max(width - cells(text), 0)
    return space + text if align == "right" else text + space


def line_cells(line: Line) -> int:
    """The cells of a whole line."""
    return sum(cells(text) for text, _ in line)


def wrap(text: str, width: int) -> list[str]:
    """`text` broken at spaces into lines of at most `width` cells; a longer word is cut where it must be.

    A short remark in brackets is not broken.

    >>> wrap("a.json (124 kB), b", 12)
    ['a.json', '(124 kB), b']
    """
    lines: list[str] = []
    current = ""
    for word in re.split(r" (?![^(]{,20}\))", text):
        joined = f"{current} {word}" if current else word
        if cells(joined) <= width:
            current = joined
            continue
        if current:
            lines.append(current)
        while cells(word) > width > 0:
            head = _take(word, width) or word[:1]
            lines.append(head)
            word = word[len(head) :]
        current = word
    return [*lines, current]


class Column(NamedTuple):
    """One column of a table.

    `keep`: the higher, the longer the column survives when the table is too wide; the elastic column shrinks first,
    down to `least` cells, before others are dropped.
    """

    title: str
    align: Literal["left", "right"] = "left"
    keep: int = 0
    style: str = ""
    elastic: bool = False
    least: int = 12
    cut: Literal["end", "middle"] = "middle"


class Table:
    """Rows of cells under column titles, fitted into a width when rendered."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns
        self.rows: list[Sequence[str | Span]] = []

    def add(self, *row: str | Span) -> None:
        """Append a row: one text, or one (text, style), for each column."""
        self.rows.append(row)

    def lines(self, width: int | None = None, titles: bool = True) -> Iterator[Line]:
        """The table as lines of at most `width` cells (None: as wide as it likes)."""
        yield from render(self.columns, self.rows, width, titles)


def render(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Span]], width: int | None, titles: bool = True
) -> Iterator[Line]:
    """Lines of `rows`; empty columns are left out, then the least important until the rest fits."""
    natural = [_natural_width(rows, index) for index in range(len(columns))]
    shown = [index for index in range(len(columns)) if natural[index]]
    widths = {index: max(natural[index], cells(columns[index].title) if titles else 0) for index in shown}
    _fit(columns, widths, width)
    order = [index for index in shown if index in widths]
    places: list[tuple[int, Column, int, bool, dict[str | Span, Span]]] = [
        (index, columns[index], widths[index], index == order[-1], {}) for index in order
    ]
    if titles and any(column.title for _, column, *_ in places):
        yield [(_placed(column.title, column, wide, last)[0], "dim") for _, column, wide, last, _ in places]
    for row in rows:
        line = []
        for index, column, wide, last, seen in places:
            cell = row[index]
            span = seen.get(cell)
            if span is None:
                span = _placed(cell, column, wide, last)
                if not column.elastic:  # many rows are alike but for their names
                    seen[cell] = span
            line.append(span)
        yield line


def _natural_width(rows: Sequence[Sequence[str | Span]], index: int) -> int:
    widest = 0
    for cell in {row[index] for row in rows}:  # many are alike
        length = cells(cell if isinstance(cell, str) else cell[0])
        if length > widest:
            widest = length
    return widest


def _fit(columns: Sequence[Column], widths: dict[int, int], width: int | None) -> None:
    """Shrink the elastic column, then drop columns from `widths`, until they fit; at last shrink below `least`."""
    if width is None:
        return
    elastic = next((index for index in widths if columns[index].elastic), next(iter(widths), None))

    def excess() -> int:
        return sum(widths.values()) + GAP * (len(widths) - 1) - width

    while (over := excess()) > 0:
        if elastic is not None and widths[elastic] - over >= columns[elastic].least:
            widths[elastic] -= over
            return
        droppable = [index for index in widths if index != elastic]
        if not droppable:
            break
        del widths[min(droppable, key=lambda index: (columns[index].keep, -index))]
    if elastic is not None and excess() > 0:
        widths[elastic] = max(width, 1)


def _placed(cell: str | Span, column: Column, width: int, last: bool) -> Span:
    """A cell cut or filled to `width`, with the gap to the next column."""
    text, style = (cell, column.style) if isinstance(cell, str) else cell
    taken = len(text) if text.isascii() else cells(text)
    if taken > width:
        text = clip(text, width, column.cut)
        taken = cells(text)
    if column.align == "right":
        text = " " * (width - taken) + text
    elif not last:
        text += " " * (width - taken)
    return (text if last else text + " " * GAP), style
