"""Histograms as text: how often each code occurs, how the values are spread."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat.report import numbers
from qformat.report.layout import Column, Line, Table
from qformat.report.summary import bar

BINS = 24
MOST_CODES = 32  # more codes than this are counted in equal ranges
BAR = 40


def codes(values: NDArray[Any], bits: int, signed: bool, width: int | None) -> Iterator[Line]:
    """How often each code occurs. Codes of many bits are taken together in 32 equal ranges."""
    low = -(1 << (bits - 1)) if signed else 0
    number = 1 << bits
    counts = np.bincount(values.reshape(-1).astype(np.int64) - low, minlength=number)
    step = max(number // MOST_CODES, 1)
    starts = range(low, low + number, step)
    labels = [str(start) if step == 1 else f"{start} … {start + step - 1}" for start in starts]
    sums = counts[:number].reshape(-1, step).sum(axis=1)
    yield from _bars("code", labels, [int(count) for count in sums], width)


def values(array: NDArray[np.float32], width: int | None) -> Iterator[Line]:
    """How values are spread between their extremes; what is not finite is counted apart."""
    flat = array.reshape(-1)
    finite = flat[np.isfinite(flat)]
    if finite.size:
        low, high = float(finite.min()), float(finite.max())
        if low == high:
            yield from _bars("value", [f"{low:.4g}"], [int(finite.size)], width)
        else:
            edges = np.linspace(low, high, BINS + 1)
            counts, _ = np.histogram(finite, edges)
            marks = _marks([float(edge) for edge in edges])
            labels = [f"{a} … {b}" for a, b in itertools.pairwise(marks)]
            yield from _bars("values", labels, [int(count) for count in counts], width)
    if finite.size < flat.size:
        yield [("  not finite: ", "bad"), (numbers.exact(int(flat.size - finite.size)), "bad")]


def _marks(edges: list[float]) -> list[str]:
    """The edges of bins with just the decimals that tell neighbours apart."""
    decimals = 1 - math.floor(math.log10((edges[-1] - edges[0]) / BINS))
    if decimals > 9 or max(-edges[0], edges[-1]) >= 1e7:
        return [f"{edge:.3e}" for edge in edges]
    return [f"{edge:.{max(decimals, 0)}f}" for edge in edges]


def _bars(title: str, labels: list[str], counts: list[int], width: int | None) -> Iterator[Line]:
    room = BAR if width is None else max(min(BAR, width - max(map(len, labels)) - 22), 4)
    table = Table(
        [
            Column(title, "right", keep=9),
            Column("", elastic=True, least=1, style="bar", cut="end"),
            Column("count", "right", keep=1),
            Column("share", "right", keep=2),
        ]
    )
    highest, total = max(counts), sum(counts)
    for label, count in zip(labels, counts, strict=True):
        share = bar(count / highest, room) if highest else ""
        table.add(label, share, numbers.exact(count), numbers.percent(count, total))
    for line in table.lines(None if width is None else width - 2):
        yield [("  ", ""), *line]


def spread(array: NDArray[np.float32]) -> dict[str, float]:
    """Mean, standard deviation and extremes of the finite values, in float64."""
    finite = array[np.isfinite(array)].astype(np.float64)
    if not finite.size:
        return {}
    return {
        "mean": float(finite.mean()),
        "deviation": float(finite.std()),
        "least": float(finite.min()),
        "largest": float(finite.max()),
    }
