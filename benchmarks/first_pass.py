"""The first pass over a file: weights that are not in memory yet, and what prefetching and copies cost or save.

    python benchmarks/first_pass.py [--mib 1024] [--rounds 5]

A file of 4-bit tensors (4096x4096, groups of 128) is opened anew for every pass and multiplied with from first tensor
to last: once after its pages were dropped from the system's cache (`disk`), and once with them there (`cache`, which
leaves faults and checksums). Each in three ways: as opened; with the extent after the one at work asked for
(POSIX_FADV_WILLNEED); and copied to huge pages. The ways take turns in an order drawn anew in every round; reading the
file with `pread` is the yardstick.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import machine
import numpy as np
import rounds
from subjects import affine, copies, one, write

import qformat
from qformat.report.layout import Column, Table
from qformat.report.terminal import Printer
from qformat.residency import Residency

SHAPE = (4096, 4096)
BUFFER = 8 << 20


@dataclass
class Row:
    """Median seconds of one way, from one place."""

    way: str
    place: str
    seconds: float
    share: float  # of reading the bytes with pread, in the same round
    samples: int


def forget(path: Path) -> None:
    """Drop the file's pages from the system's cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def read(path: Path) -> None:
    buffer = bytearray(BUFFER)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def multiply(path: Path, *, residency: Residency = "mmap", ahead: bool = False) -> None:
    x = np.ones(SHAPE[1], np.float32)
    with qformat.open(path, residency=residency) as model:
        file = os.open(path, os.O_RDONLY)
        starts = model.container.parts[0].index.records.whole()["offset"].tolist()
        for name, start in zip(model, [*starts[1:], None], strict=True):
            if ahead and start is not None:
                os.posix_fadvise(file, start, model[name].nbytes, os.POSIX_FADV_WILLNEED)
            model[name].matvec(x, "int8")
        os.close(file)


WAYS: dict[str, Callable[[Path], None]] = {
    "pread": read,
    "as opened": multiply,
    "prefetched": lambda path: multiply(path, ahead=True),
    "huge pages": lambda path: multiply(path, residency="hugepages"),
}


def timed(way: str, place: str, path: Path) -> float:
    if place == "disk":
        forget(path)
    begun = time.perf_counter()
    WAYS[way](path)
    return time.perf_counter() - begun


def measure(path: Path, count: int) -> list[Row]:
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    read(path)
    for _ in range(count):
        for place in ("disk", "cache"):
            for way in random.sample(list(WAYS), len(WAYS)):
                samples[way, place].append(timed(way, place, path))
    return [
        Row(way, place, median(own), median(a / b for a, b in zip(samples["pread", place], own, strict=True)), len(own))
        for (way, place), own in sorted(samples.items(), key=lambda item: (item[0][1], list(WAYS).index(item[0][0])))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    scheme, extent = one(affine(4, 128), SHAPE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.qf"
        write(path, scheme, SHAPE, extent, copies(extent.nbytes, given.mib << 20))
        found, size = measure(path, given.rounds), path.stat().st_size
    columns = [Column("place"), Column("way"), *(Column(title, "right") for title in ("s", "GB/s", "of pread"))]
    table = Table(columns)
    for row in found:
        table.add(row.place, row.way, f"{row.seconds:.2f}", f"{size / row.seconds / 1e9:.1f}", f"{row.share:.2f}")
    printer = Printer()
    printer.lines(table.lines(printer.width))
    about = {**machine.description(), "mib": given.mib}
    result = rounds.result_path("first-pass")
    result.write_text(json.dumps({"machine": about, "rows": [asdict(row) for row in found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
