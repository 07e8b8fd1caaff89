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


def chosen(rows: list[Row], shape: tuple[int, int], pages: tuple[str, ...], threads: int) -> list[Row]:
    """The rows of each piece in the state of the host that most of its samples have seen: ours, then the peers."""
    here = [row for row in rows if row.shape == shape and row.pages in pages and row.threads == threads]
    seen: dict[str, Counter[str]] = {row.piece: Counter() for row in here}
    for row in here:
        seen[row.piece][row.state] += len(row.seconds)
    pieces = list(seen)
    best = [row for row in here if row.state == seen[row.piece].most_common(1)[0][0]]
    return sorted(best, key=lambda row: (pieces.index(row.piece), row.subject not in OURS, -row.weights_per_second))


def draw(axes: Any, title: str, rows: list[Row]) -> None:
    """Bars: grey to the limit, coloured to what was measured; pieces stand apart."""
    places: list[float] = []
    for i, row in enumerate(rows):
        y = places[-1] + (1 if row.piece == rows[i - 1].piece else 1.6) if places else 0.0
        places.append(y)
        axes.barh(y, row.limit / 1e9, color=LIMIT, height=0.82)
        axes.barh(y, row.weights_per_second / 1e9, color=COLOURS[row.subject in OURS], height=0.5)
        end = max(row.limit, row.weights_per_second) / 1e9
        axes.text(end, y, f"  {row.share:.2f} {row.state}", va="center", fontsize=7, color="0.35")
    axes.set_yticks(places, [f"{row.subject}  {row.bits:.2f}" for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("G weights/s", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.margins(x=0.1, y=0.01)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def plot(source: Path, shape: tuple[int, int], threads: int = 2) -> Path:
    """The picture beside the file of samples.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the file has nothing for this shape.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    rows = rounds.load(source)
    kinds = {title: chosen(rows, shape, pages, threads) for title, pages in KINDS.items()}
    sides = [(title, found) for title, found in kinds.items() if found]
    if not sides:
        raise ValueError(f"no rows of {shape[0]}x{shape[1]} on {threads} threads")
    most, wide = max(len(found) for _, found in sides), len(sides)
    figure, panels = pyplot.subplots(1, wide, figsize=(6.5 * max(wide, 1.3), 0.26 * most + 1.6), squeeze=False)
    for axes, (title, found) in zip(panels[0], sides, strict=True):
        draw(axes, title, found)
    keys = {
        "ours": COLOURS[True],
        "peer": COLOURS[False],
        "plain read of the same pages; share of it, and where the host had the cores": LIMIT,
    }
    figure.legend(
        handles=[Patch(color=colour, label=label) for label, colour in keys.items()],
        loc="lower center", ncols=3, fontsize=8, frameon=False,
    )  # fmt: skip
    figure.suptitle(f"Products with one vector, {shape[0]}×{shape[1]}, {threads} threads", fontsize=11)
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
