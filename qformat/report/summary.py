"""The head of `inspect`: what a file is, how big, how it is stored, how far from its source, where it comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from qformat.report import numbers
from qformat.report.layout import Column, Line, Table, cells, clip, wrap
from qformat.report.overview import Overview, Totals
from qformat.text import safe_text

KEY = 12  # cells of the key column
LONGEST = 200  # characters shown of one metadata value
BAR = 24

_FORMATS = {"qformat": "qformat", "gguf": "GGUF", "safetensors": "safetensors"}


def title(view: Overview, width: int | None) -> Iterator[Line]:
    """The first line: name, architecture, format. Needs no row, so it can be shown at once."""
    name = _text(view, "general.name") or safe_text(os.path.basename(view.path.rstrip("/")) or view.path)
    architecture = _text(view, "config.architectures") or _text(view, "general.architecture")
    kind = _FORMATS.get(view.format, view.format) + (f" {view.version}" if view.version else "")
    rest = "  ".join(part for part in (architecture, kind) if part)
    if width is not None and cells(name) + 2 + cells(rest) > width:
        yield [(clip(name, width), "title")]
        yield [(clip(rest, width), "dim")]
    else:
        yield [(name, "title"), (f"  {rest}", "dim")]


def facts(view: Overview, width: int | None) -> Iterator[Line]:
    """Key and value lines: sizes, error, provenance, digests."""
    for key, value in _facts(view):
        if value:
            yield from fact(key, value, width)


def fact(key: str, value: str, width: int | None) -> Iterator[Line]:
    """A key and its value, wrapped beside it."""
    for part in [value] if width is None else wrap(value, max(width - KEY - 2, 8)):
        yield [(f"  {key:<{KEY}}", "key"), (part, "")]
        key = ""


def _facts(view: Overview) -> Iterator[tuple[str, str]]:
    count = f"{numbers.count(view.weights)} in {numbers.plural(len(view.rows), 'tensor')}"
    aliases = view.totals.aliases
    yield "parameters", count + (f", {aliases} tied" if aliases else "")
    size = numbers.size(view.total_bytes)
    if view.bits_per_weight is not None:
        size += f", {numbers.bits(view.bits_per_weight)} bits per weight"
    yield "size", size + (f", {numbers.plural(len(view.files), 'file')}" if view.files else "")
    yield "error", _error(view.totals)
    yield "left dense", _left_dense(view.metadata.get("qformat.coverage"))
    yield "quantized by", _text(view, "config.quantization")
    yield "source", _source(view.metadata)
    yield "licence", _text(view, "general.license")
    yield "made by", _tool(view.metadata)
    yield "carries", ", ".join(f"{safe_text(a.name, 60)} ({numbers.size(a.nbytes)})" for a in view.attachments)
    yield "digest", view.digest or ""


def _error(totals: Totals) -> str:
    """Mean, weighted by weights, and the worst of the recorded relative errors."""
    if totals.mean_error is None or totals.worst is None:
        return ""
    worst = f"{numbers.error(totals.worst.error)} worst ({safe_text(totals.worst.name)})"
    return f"{numbers.error(totals.mean_error)} mean, {worst}"


def _left_dense(coverage: object) -> str:
    """Why tensors were not quantized, as the conversion recorded it: reasons, each with its names or their number."""
    dense = coverage.get("dense") if isinstance(coverage, Mapping) else None
    reasons = dense.get("reasons") if isinstance(dense, Mapping) else None
    if not isinstance(reasons, Mapping):
        return ""
    parts = []
    for reason, names in reasons.items():
        if isinstance(names, list) and names:
            shown = safe_text(names[0], 80) if len(names) == 1 else f"{numbers.exact(len(names))} names"
            parts.append(f"{safe_text(reason, 80)} ({shown})")
    return "; ".join(parts)


def _source(metadata: Mapping[str, Any]) -> str:
    name = metadata.get("qformat.source.name") or metadata.get("general.source.url")
    revision = metadata.get("qformat.source.revision")
    if not name:
        return ""
    return safe_text(name, LONGEST) + (f" at {safe_text(revision, 40)}" if revision else "")


def _tool(metadata: Mapping[str, Any]) -> str:
    tool = metadata.get("qformat.tool")
    if isinstance(tool, Mapping):
        tool = " ".join(str(tool[key]) for key in ("name", "version") if key in tool)
    elif not tool:
        tool = metadata.get("general.quantized_by", "")
    seed = metadata.get("qformat.seed")
    return safe_text(tool, 80) + (f", seed {safe_text(seed, 20)}" if tool and seed is not None else "")


def _text(view: Overview, key: str) -> str:
    value = view.metadata.get(key)
    return safe_text(value, LONGEST) if isinstance(value, str) else ""


def mix(view: Overview, width: int | None) -> Iterator[Line]:
    """How the weights are stored: a line for each kind, the largest first, with its share of the weights."""
    table = Table(
        [
            Column("stored as", elastic=True, cut="end"),
            Column("", keep=1, style="bar"),
            Column("weights", "right", keep=4),
            Column("tensors", "right", keep=2),
            Column("size", "right", keep=3),
            Column("bits", "right", keep=5),
        ]
    )
    ranked = sorted(view.totals.kinds.items(), key=lambda item: -item[1].weights)
    for label, kind in ranked[:12]:
        table.add(
            safe_text(label),
            bar(kind.weights / view.weights if view.weights else 0, BAR),
            numbers.percent(kind.weights, view.weights),
            numbers.exact(kind.tensors),
            numbers.size(kind.nbytes),
            numbers.bits(8 * kind.nbytes / kind.weights) if kind.weights else "",
        )
    if len(ranked) > 12:
        table.add((f"… {len(ranked) - 12} more", "dim"), "", "", "", "", "")
    yield from indented(table.lines(None if width is None else width - 2))


_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(share: float, width: int) -> str:
    """A bar of `share` × `width` cells, to an eighth of a cell; something to see for anything above nothing.

    >>> bar(0.5, 8), bar(0.0001, 8), bar(0, 8)
    ('████', '▏', '')
    """
    eighths = round(share * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    full, part = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[part] if part else "")


def indented(lines: Iterator[Line]) -> Iterator[Line]:
    """Lines moved two cells to the right."""
    for line in lines:
        yield [("  ", ""), *line]


def quiet(view: Overview) -> str:
    """The whole file on one line."""
    parts = [
        f"{safe_text(view.path)}: {_FORMATS.get(view.format, view.format)}",
        numbers.plural(len(view.rows), "tensor"),
        f"{numbers.count(view.weights)} parameters",
        numbers.size(view.total_bytes),
    ]
    if view.bits_per_weight is not None:
        parts.append(f"{numbers.bits(view.bits_per_weight)} bits per weight")
    return ", ".join(parts) + (f", {view.digest}" if view.digest else "")
