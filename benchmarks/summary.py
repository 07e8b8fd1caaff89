"""The tables of README.md, from files of samples.

    python benchmarks/summary.py [benchmarks/results/…-gemv.json …]

Medians by shape and state of the host; a state in which fewer than half of the subjects were seen has no table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import rounds
from decoders import OURS_DECODING
from layers import LAYERS
from rounds import Row
from subjects import OURS

DENSE = "nn.Linear bf16"


def markdown(titles: list[str], lines: list[list[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    head = [titles, ["---", *["--:"] * (len(titles) - 1)]]
    return "\n".join("| " + " | ".join(line) + " |" for line in head + lines)


def tables(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows by piece family, shape and state, with a title each."""
    subjects = {shape: {r.subject for r in rows if r.shape == shape} for shape in {r.shape: None for r in rows}}
    for shape in subjects:
        for state in sorted({r.state for r in rows if r.shape == shape}):
            own = [r for r in rows if (r.shape, r.state) == (shape, state)]
            if len({r.subject for r in own}) * 2 >= len(subjects[shape]):
                yield f"{shape[0]}×{shape[1]}, {state}", own


def one(rows: list[Row], say: Callable[[Row], str | None], **wanted: object) -> str:
    """What there is to say of the one row that has these values; a dash without it."""
    found = [r for r in rows if all(getattr(r, name) == value for name, value in wanted.items())]
    return (say(found[0]) if found else None) or "–"


def share(row: Row) -> str:
    return f"{row.share:.2f}"


def speed(row: Row) -> str:
    """G weights/s."""
    giga = row.weights_per_second / 1e9
    return f"{giga:.1f}" if giga >= 10 else f"{giga:.2f}"


def products(rows: list[Row]) -> str:
    """Share and speed of every subject; "file" is the heap for peers that keep their weights there."""

    def times(row: Row) -> str | None:
        found = rounds.ratio(row, rows, OURS)
        return None if found is None else f"{found:.2f}"

    pieces = list(dict.fromkeys(r.piece for r in rows))
    ordered = sorted(rows, key=lambda r: (pieces.index(r.piece), r.subject not in OURS, r.subject))
    lines = []
    for subject in dict.fromkeys(r.subject for r in ordered):
        own = [r for r in rows if r.subject == subject]
        line = [subject, f"{own[0].bits:.2f}"]
        pages = [next((r.pages for r in own if r.pages != "huge"), "file"), "huge"]
        for say in (share, speed, times):
            line += [one(own, say, pages=kind, threads=2) for kind in pages]
        line += [one(own, say, pages=pages[0], threads=1) for say in (share, speed)]
        lines.append(line)
    titles = ["", "bits", "share, file", "huge", "Gw/s, file", "huge", "× peer, file", "huge"]
    return markdown([*titles, "1 thread: share", "Gw/s"], lines)


def decoding(rows: list[Row]) -> str:
    """Share of a plain write, and speed."""

    def times(row: Row) -> str | None:
        found = rounds.ratio(row, rows, OURS_DECODING)
        return None if found is None else f"{found:.1f}"

    lines = []
    for subject in dict.fromkeys(r.subject for r in rows):
        line = [subject]
        for threads in (2, 1):
            line += [one(rows, say, subject=subject, threads=threads) for say in (share, speed, times)]
        lines.append(line)
    return markdown(["", "share", "Gw/s", "× peer", "1 thread: share", "Gw/s", "× peer"], lines)


def prefill(rows: list[Row]) -> str:
    """Milliseconds, and the ratio to the dense layer."""

    def cell(name: str, batch: int) -> str:
        return one(rows, lambda r: f"{median(r.seconds) * 1e3:.2f}", subject=name, batch=batch, threads=2)

    def against(name: str, batch: int) -> str:
        own, dense = cell(name, batch), cell(DENSE, batch)
        return "–" if "–" in (own, dense) else f"{float(own) / float(dense):.2f}"

    ours = [name for name in LAYERS if name != DENSE]
    lines = [
        [str(batch), cell(DENSE, batch), *(word for name in ours for word in (cell(name, batch), against(name, batch)))]
        for batch in sorted({r.batch for r in rows})
    ]
    return markdown(["rows of x", f"{DENSE}, ms", *(t for name in ours for t in (f"{name}, ms", "ratio"))], lines)


HOW = {"decode": decoding, "prefill": prefill}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = [rounds.result_path(name) for name in ("gemv", "decode", "prefill")]
    parser.add_argument("files", type=Path, nargs="*", default=[file for file in files if file.exists()])
    for file in parser.parse_args().files:
        rows = rounds.load(file)
        for title, own in tables(rows):
            print(f"\n{title} ({file.name}):\n\n{HOW.get(own[0].piece, products)(own)}")


if __name__ == "__main__":
    main()
