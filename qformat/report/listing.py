"""The body of `inspect`: the folded tree of modules, or the table of all tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qformat.report import numbers
from qformat.report.layout import Column, Line, Span, Table, wrap
from qformat.report.overview import Row
from qformat.report.tree import Branch, fold
from qformat.text import safe_text

_COLUMNS = [
    Column("tensor", elastic=True, least=26),
    Column("shape", keep=3),
    Column("stored as", keep=6),
    Column("size", "right", keep=5),
    Column("bits", "right", keep=7),
    Column("error", "right", keep=4),
]


def tree(rows: Sequence[Row], width: int | None) -> Iterator[Line]:
    """The folded tree; sizes are of all copies together, bits and errors are means."""
    table = Table(_COLUMNS)
    root = fold(rows)
    for index, child in enumerate(root.children):
        _add(table, child, "", index == len(root.children) - 1, top=True)
    yield from table.lines(width)
    if _has_fold(root):
        note = "n × marks what is folded; its sizes are of all n together"
        yield []
        for part in wrap(note, width or len(note)):
            yield [(part, "dim")]


def _add(table: Table, branch: Branch, indent: str, last: bool, top: bool = False) -> None:
    """A branch's line and those below it; `indent` is the drawing left of its children's."""
    joint = "" if top else "└ " if last else "├ "
    if branch.hidden:
        text = f"{indent}{joint}… {numbers.exact(branch.hidden)} more"
        table.add((text, "dim"), "", "", numbers.size(branch.nbytes), numbers.bits(branch.bits_per_weight), "")
        return
    first = branch.rows[0] if branch.rows else None
    name = f"{indent}{joint}{safe_text(branch.label)}"
    if first is not None and first.target is not None:
        name += f" → {safe_text(first.target)}"
    if branch.folded:
        name += f"  {branch.copies} ×"
    style = "" if first is not None else "dim"
    table.add(
        (name, "" if first is not None else "name"),
        numbers.shape(first.shape) if first is not None else "",
        _stored_as(first) if first is not None else "",
        (numbers.size(branch.nbytes), style),
        (numbers.bits(branch.bits_per_weight), style),
        (numbers.error(branch.error), style),
    )
    below = "" if top else indent + ("  " if last else "│ ")
    for index, child in enumerate(branch.children):
        _add(table, child, below, index == len(branch.children) - 1)


def _stored_as(row: Row) -> Span:
    """The label, in colour where a tensor is not left as it was."""
    return safe_text(row.stored_as), "dim" if row.stored.coding == "dense" or row.target is not None else "group"


def _has_fold(branch: Branch) -> bool:
    return branch.folded or any(_has_fold(child) for child in branch.children)


def tensors(rows: Sequence[Row], width: int | None) -> Iterator[Line]:
    """One line for each tensor."""
    table = Table(
        [
            Column("tensor", elastic=True, least=20),
            Column("shape", keep=4),
            Column("dtype", keep=2, style="dim"),
            Column("stored as", keep=6),
            Column("size", "right", keep=5),
            Column("bits", "right", keep=7),
            Column("error", "right", keep=3),
            Column("largest error", "right", keep=1),
        ]
    )
    alike: dict[tuple[object, ...], tuple[str | Span, ...]] = {}  # a model has few kinds of tensors
    for row in rows:
        key = row.shape, row.nbytes, row.stored, row.target is None
        cells = alike.get(key)
        if cells is None:
            cells = alike[key] = _about(row)
        name = row.name if row.target is None else f"{row.name} → {row.target}"
        error = "" if row.error is None else numbers.error(row.error)
        most = "" if row.max_error is None else numbers.error(row.max_error)
        table.add(safe_text(name), *cells, error, most)
    return table.lines(width)


def _about(row: Row) -> tuple[str | Span, ...]:
    """What a row says of a tensor between its name and its errors."""
    return (
        numbers.shape(row.shape),
        safe_text(row.stored.dtype),
        _stored_as(row),
        numbers.size(row.nbytes if row.target is None else 0),
        numbers.bits(row.bits_per_weight),
    )
