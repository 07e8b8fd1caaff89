"""Roofline of each coding: weights per second measured, over what a plain read of the same pages would allow.

python benchmarks/plot.py [benchmarks/results/…-gemv.json] [--shape 4096x4096]
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import rounds
from rounds import Row
from subjects import OURS

KINDS = {"from a file mapping; peers that repack, on the heap": ("file", "heap"), "on huge pages": ("huge",)}
COLOURS = {True: "#2b6cb0", False: "#dd8a3c"}
LIMIT = "#e2e5e9"


def chosen(rows: list[Row], shape: tuple[int, int], pages: tuple[str, ...], threads: int) -> tuple[str, list[Row]]:
    """The state of the host that most samples have seen, and its rows, the most bits first."""
    here = [row for row in rows if row.shape == shape and row.pages in pages and row.threads == threads]
    seen: Counter[str] = Counter()
    for row in here:
        seen[row.state] += len(row.seconds)
    state = seen.most_common(1)[0][0] if seen else ""
    order = {subject: i for i, subject in enumerate(dict.fromkeys(row.subject for row in rows))}
    return state, sorted((row for row in here if row.state == state), key=lambda row: order[row.subject])


def draw(axes: Any, title: str, rows: list[Row]) -> None:
    """Bars: grey to the limit, coloured to what was measured."""
    for y, row in enumerate(rows):
        axes.barh(y, row.limit / 1e9, color=LIMIT, height=0.82)
        axes.barh(y, row.weights_per_second / 1e9, color=COLOURS[row.subject in OURS], height=0.5)
        axes.text(row.limit / 1e9, y, f"  {row.share:.2f}", va="center", fontsize=8, color="0.35")
    axes.set_yticks(range(len(rows)), [f"{row.subject}  ({row.bits:.2f})" for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("G weights/s", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.margins(x=0.08, y=0.01)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def plot(source: Path, shape: tuple[int, int], threads: int = 2) -> Path:
    """The picture beside the file of samples.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    rows = rounds.load(source)
    sides = [(title, *chosen(rows, shape, pages, threads)) for title, pages in KINDS.items()]
    most = max(len(found) for _, _, found in sides)
    figure, panels = pyplot.subplots(1, 2, figsize=(13, 0.24 * most + 1.6))
    for axes, (title, state, found) in zip(panels, sides, strict=True):
        draw(axes, f"{title} ({state})", found)
    keys = {"ours": COLOURS[True], "peer": COLOURS[False], "a plain read of the same pages; share of it": LIMIT}
    figure.legend(
        handles=[Patch(color=colour, label=label) for label, colour in keys.items()],
        loc="lower center", ncols=3, fontsize=8, frameon=False,
    )  # fmt: skip
    figure.suptitle(
        f"Products with one vector, {shape[0]}×{shape[1]}, {threads} threads (bits per weight)", fontsize=11
    )
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    target = source.with_suffix(".png")
    figure.savefig(target, dpi=110)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", default=rounds.result_path("gemv"))
    parser.add_argument("--shape", default="4096x4096")
    given = parser.parse_args()
    print(plot(given.source, rounds.sides(given.shape)))


if __name__ == "__main__":
    main()
