"""How numbers are written for people: sizes in decimal units, counts, shapes, times. One way, everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

_UNITS = ("", "k", "M", "G", "T", "P", "E")


def _scaled(number: float) -> tuple[str, str]:
    """`number` with three significant digits and its decimal prefix: 15234567 → ("15.2", "M")."""
    magnitude, prefix = abs(number), 0
    while prefix < len(_UNITS) - 1 and float(f"{magnitude:.3g}") >= 1000:
        magnitude, prefix = magnitude / 1000, prefix + 1
    whole = len(str(int(float(f"{magnitude:.3g}"))))
    return f"{math.copysign(magnitude, number):.{max(3 - whole, 0)}f}", _UNITS[prefix]


def size(n_bytes: int) -> str:
    """Bytes in decimal units, as disks and downloads are sold.

    >>> size(999), size(15234567), size(0)
    ('999 B', '15.2 MB', '0 B')
    """
    if abs(n_bytes) < 1000:
        return f"{n_bytes} B"
    text, prefix = _scaled(n_bytes)
    return f"{text} {prefix}B"


def count(number: int) -> str:
    """A count of many things, shortened.

    >>> count(999), count(15234567)
    ('999', '15.2 M')
    """
    if abs(number) < 1000:
        return str(number)
    text, prefix = _scaled(number)
    return f"{text} {prefix}"


def exact(number: int) -> str:
    """A count to the last digit.

    >>> exact(1234567)
    '1,234,567'
    """
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """
    >>> plural(1, "tensor"), plural(2340, "tensor")
    ('1 tensor', '2,340 tensors')
    """
    return f"{exact(number)} {noun}{'' if number == 1 else 's'}"


def shape(dims: Sequence[int]) -> str:
    """
    >>> shape((4096, 11008)), shape(())
    ('4096 × 11008', 'scalar')
    """
    return " × ".join(map(str, dims)) if len(dims) else "scalar"


def error(value: float | None) -> str:
    """A relative or absolute error, three significant digits; empty for None.

    >>> error(0.0812345), error(0.0), error(None), error(1.5e-7)
    ('0.0812', '0', '', '1.5e-07')
    """
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:.3g}"
    if 1e-4 <= abs(value) < 1000:
        return f"{value:.{max(2 - math.floor(math.log10(abs(value))), 0)}f}"
    return f"{value:.3g}"


def bits(value: float | None) -> str:
    """Bits per weight, two decimals; empty for None.

    >>> bits(4.5), bits(None)
    ('4.50', '')
    """
    return "" if value is None else f"{value:.2f}"


def percent(part: float, whole: float) -> str:
    """A share with one decimal; never 0 or 100 unless it is exactly that.

    >>> percent(1, 3), percent(9999, 10000), percent(1, 1), percent(1, 10000), percent(0, 0)
    ('33.3 %', '99.9 %', '100 %', '<0.1 %', '–')
    """
    if not whole:
        return "–"
    if part in (0, whole):
        return "100 %" if part else "0 %"
    ratio = 100 * part / whole
    return "<0.1 %" if ratio < 0.05 else f"{min(ratio, 99.9):.1f} %"


def seconds(value: float) -> str:
    """
    >>> seconds(0.0123), seconds(12.34), seconds(75), seconds(7260)
    ('12 ms', '12.3 s', '1 min 15 s', '2 h 01 min')
    """
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def rate(n_bytes: float, elapsed: float) -> str:
    """
    >>> rate(3e9, 1.5)
    '2.00 GB/s'
    """
    return f"{size(round(n_bytes / elapsed))}/s" if elapsed > 0 else "–"


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers as runs.

    >>> ranges([0, 1, 2, 3, 5, 7, 8])
    '0–3, 5, 7–8'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
