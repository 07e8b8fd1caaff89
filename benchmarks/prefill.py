"""A linear layer over many rows of x: `QLinear` beside torch's dense bfloat16 layer, in the same rounds.

python benchmarks/prefill.py [--shape 4096x4096 …] [--batch 1 8 16 …] [--rounds 3] [--quick]
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from statistics import median

import rounds
from layers import LAYERS
from rounds import Row

from qformat.report.layout import Column, Table
from qformat.report.terminal import Printer

BATCHES = (1, 8, 16, 32, 64, 128, 256, 512)


def show(rows: list[Row]) -> None:
    """Milliseconds by rows of x, and how many times as long as the dense layer in the same state."""
    table = Table(
        [
            Column("rows of x", align="right", keep=9),
            Column("threads", align="right", keep=3),
            Column("state", keep=4),
            *(Column(name, align="right", keep=8) for name in LAYERS),
        ]
    )
    groups = {
        (row.batch, row.threads, row.state): {} for row in sorted(rows, key=lambda r: (-r.threads, r.state, r.batch))
    }
    for row in rows:
        groups[row.batch, row.threads, row.state][row.subject] = median(row.seconds) * 1e3
    for (batch, threads, state), times in groups.items():
        dense = times.get("nn.Linear bf16")
        cells = []
        for name in LAYERS:
            ratio = f" ({times[name] / dense:.2f}×)" if dense and name in times and times[name] != dense else ""
            cells.append(f"{times[name]:.2f} ms{ratio}" if name in times else "")
        table.add(str(batch), str(threads), state, *cells)
    printer = Printer()
    printer.lines(table.lines(printer.width))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=["4096x4096", "14336x4096"], help="outputs x inputs")
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES), help="rows of x")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=64, help="stored bytes of each quantized subject")
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--quick", action="store_true", help="one shape, up to 128 rows")
    parser.add_argument("--out", type=Path, help="JSON to add the rows to")
    given = parser.parse_args()
    if given.quick:
        given.shape, given.batch = given.shape[:1], [b for b in given.batch if b <= 128]
    subjects = {name: process for name, (process, _) in LAYERS.items()}
    for shape in given.shape:
        sides = rounds.sides(shape)
        found = rounds.measure(
            "prefill", subjects, sides, given.mib << 20, given.rounds, given.threads, ("file",), given.batch
        )
        print(f"\nprefill, {shape}")
        show(found)
        rounds.save(given.out or rounds.result_path("prefill"), given.mib, [asdict(row) for row in found])


if __name__ == "__main__":
    main()
