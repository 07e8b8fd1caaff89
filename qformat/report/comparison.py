"""A `Comparison` as lines and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from qformat.report import as_json, numbers
from qformat.report.compare import Comparison, TensorDifference, beyond
from qformat.report.layout import Column, Line, Table, clip, wrap
from qformat.report.overview import Row
from qformat.text import fold_layers, safe_text

_WORDS = {
    "only in A": "only in A",
    "only in B": "only in B",
    "shape": "shape",
    "dtype": "dtype",
    "stored": "stored otherwise",
    "unreadable": "cannot be read",
}


def lines(result: Comparison, width: int | None, tolerance: float = 0.0, tensors: bool = False) -> Iterator[Line]:
    """What differs, then metadata and attachments, then the sum of it; layers are folded unless `tensors`."""
    for letter, label in (("A", result.a), ("B", result.b)):
        text = safe_text(label)
        yield [(f"{letter}  ", "key"), (text if width is None else clip(text, max(width - 3, 1), "middle"), "title")]
    shown = [each for each in result.tensors if each.differs]
    if shown:
        yield []
        yield from _table(shown, tolerance, tensors).lines(width)
    changes = {path: pair for key, (a, b) in result.metadata.items() for path, pair in _leaves(key, a, b)}
    yield from _changes("metadata", changes, width)
    sizes = {key: (_size(a), _size(b)) for key, (a, b) in result.attachments.items()}
    yield from _changes("files carried", sizes, width)
    yield []
    for part in wrap(summary(result, tolerance), width or 1000):
        yield [(part, "bad" if result.differs(tolerance) else "good")]


def _table(shown: list[TensorDifference], tolerance: float, tensors: bool) -> Table:
    table = Table(
        [
            Column("tensor", elastic=True, least=20),
            Column("A", keep=3, style="group"),
            Column("B", keep=2, style="group"),
            Column("largest", "right", keep=4),
            Column("relative", "right", keep=6),
            Column("", keep=5, style="bad"),
        ]
    )
    alike: dict[tuple[object, ...], list[TensorDifference]] = {}
    for each in shown:
        describe = _shape if each.kind == "shape" else _stored_as
        pair = describe(each.a), describe(each.b)
        key = (each.name if tensors else fold_layers(each.name), each.kind, beyond(each, tolerance), *pair)
        alike.setdefault(key, []).append(each)
    for (name, kind, bad, a, b), some in alike.items():
        table.add(
            safe_text(some[0].name) if len(some) == 1 else f"{safe_text(str(name))} ({len(some)})",
            str(a),
            str(b),
            numbers.error(_most(each.max_abs for each in some)),
            (numbers.error(_most(each.relative for each in some)), "bad" if bad else ""),
            "" if kind == "stored" and a != b else _WORDS.get(str(kind), ""),
        )
    return table


def _most(values: Iterable[float | None]) -> float | None:
    """The largest of what was measured; NaN beats all."""
    return max((v for v in values if v is not None), key=lambda v: (v != v, v), default=None)


def _shape(row: Row | None) -> str:
    return "–" if row is None else numbers.shape(row.shape)


def _stored_as(row: Row | None) -> str:
    return "–" if row is None else safe_text(row.stored_as)


def _changes(title: str, changes: dict[str, tuple[str, str]], width: int | None) -> Iterator[Line]:
    if not changes:
        return
    yield []
    yield [(title, "name")]
    for key, (a, b) in changes.items():
        line = f"  {safe_text(key)}: {a} → {b}"
        yield [(line if width is None else clip(line, width), "")]


def _leaves(path: str, a: Any, b: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    """What differs in two values, objects taken apart: `qformat.recipe.method: ls → nf4`."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        yield path, (_value(a), _value(b))
        return
    for key in sorted(a.keys() | b.keys()):
        if key not in a or key not in b or a[key] != b[key]:
            yield from _leaves(f"{path}.{key}", a.get(key), b.get(key))


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return clip(safe_text(value if isinstance(value, str) else as_json.dumps(value)), 60)


def _size(n_bytes: int | None) -> str:
    return "–" if n_bytes is None else numbers.size(n_bytes)


def summary(result: Comparison, tolerance: float = 0.0) -> str:
    """One sentence."""
    bad = [each for each in result.tensors if beyond(each, tolerance)]
    kinds = [
        (sum(each.kind == "only in A" for each in bad), "only in A"),
        (sum(each.kind == "only in B" for each in bad), "only in B"),
        (sum(each.kind == "shape" for each in bad), "of another shape"),
        (sum(each.kind == "dtype" for each in bad), "of another dtype"),
        (sum(each.kind == "stored" for each in bad), "stored otherwise"),
        (sum(each.kind == "values" for each in bad), "of other values"),
        (sum(each.kind == "unreadable" for each in bad), "not readable"),
    ]
    parts = [f"{numbers.exact(count)} {what}" for count, what in kinds if count]
    compared = [each for each in result.tensors if each.relative is not None]
    total = numbers.plural(len(result.tensors), "tensor")
    text = f"{total}: {', '.join(parts)}" if parts else f"{total}: {'equal' if not tolerance else 'equal enough'}"
    if result.metadata:
        text += f"; {_differ(len(result.metadata), 'metadata key')}"
    if result.attachments:
        text += f"; {_differ(len(result.attachments), 'carried file')}"
    worst = max(compared, key=lambda each: each.relative or 0.0, default=None)
    if worst is not None and worst.relative:
        text += f"; largest relative difference {numbers.error(worst.relative)} ({safe_text(worst.name)})"
    return text


def _differ(number: int, noun: str) -> str:
    return f"{numbers.plural(number, noun)} {'differs' if number == 1 else 'differ'}"


def to_json(result: Comparison, tolerance: float = 0.0) -> dict[str, Any]:
    """The comparison as an object; every tensor that both have is in it, the equal ones too."""
    return {
        "a": result.a,
        "b": result.b,
        "differs": result.differs(tolerance),
        "tensors": [
            {
                "name": each.name,
                "kind": each.kind,
                "a": as_json.tensor(each.a) if each.a is not None else None,
                "b": as_json.tensor(each.b) if each.b is not None else None,
                "max_abs": each.max_abs,
                "relative": each.relative,
                "reason": each.reason,
            }
            for each in result.tensors
        ],
        "metadata": {key: {"a": a, "b": b} for key, (a, b) in result.metadata.items()},
        "attachments": {key: {"a": a, "b": b} for key, (a, b) in result.attachments.items()},
    }
