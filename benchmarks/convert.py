"""How fast the methods are beside the packages that they follow: millions of weights a second, equal threads.

    python benchmarks/convert.py [--threads 2] [--rounds 5] [--json FILE]

Ours is the whole function: from float32 weights to the packed bytes of an extent, error included. A peer is its own
quantizer on the same matrix, packed bytes included where it packs. Rounds are interleaved and medians compared, so that
whatever else the machine does meets both. The tests of what is measured run first: no number on a red gate.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]


class Contest(NamedTuple):
    """Ours against a peer on one matrix; `target` is the ratio that is asked for, or None."""

    name: str
    peer: str
    weights: int
    ours: Callable[[], object]
    theirs: Callable[[], object]
    target: float | None


class Line(NamedTuple):
    """One line of the table: medians in millions of weights a second."""

    name: str
    peer: str
    ours: float
    theirs: float
    ratio: float
    target: float | None


def ours(name: str, weight: np.ndarray, **options: Any) -> Callable[[], object]:
    """Code and pack a matrix."""
    from qformat.converters.methods import packing, quantize

    def run() -> object:
        coded = quantize(name, weight, **options)
        return packing.pack(coded.scheme, weight.shape, coded.arrays, coded.parameters)

    return run


def contests(weight: np.ndarray) -> list[Contest]:
    """All contests whose peer is installed."""
    found = [*_bitsandbytes(weight), *_gguf(weight), *_hqq(weight[: max(len(weight) // 4, 1)])]
    if not found:
        raise SystemExit("no peer is installed: pip install bitsandbytes gguf hqq")
    return found


def _bitsandbytes(weight: np.ndarray) -> list[Contest]:
    try:
        import torch
        from bitsandbytes import functional
    except ImportError:
        return []
    tensor, half = torch.from_numpy(weight), torch.from_numpy(weight).half()

    def four_bits(kind: str, nested: bool) -> Callable[[], object]:
        return lambda: functional.quantize_4bit(tensor, quant_type=kind, compress_statistics=nested)

    peer, size = "bitsandbytes", weight.size
    return [
        Contest("nf4", peer, size, ours("nf4", weight), four_bits("nf4", False), 3.0),
        Contest("fp4", peer, size, ours("fp4", weight), four_bits("fp4", False), 3.0),
        Contest("nf4 double", peer, size, ours("nf4", weight, double_quant=True), four_bits("nf4", True), 3.0),
        Contest("int8", peer, size, ours("int8", weight), lambda: functional.int8_vectorwise_quant(half), None),
        Contest("rtn 4 (nf4)", peer, size, ours("rtn", weight), four_bits("nf4", False), 3.0),
    ]


def _gguf(weight: np.ndarray) -> list[Contest]:
    try:
        import gguf
    except ImportError:
        return []
    contests = []
    for bits, kind in ((4, gguf.GGMLQuantizationType.Q4_0), (8, gguf.GGMLQuantizationType.Q8_0)):
        run = ours("rtn", weight, bits=bits, group_size=32, symmetric=True)
        contests.append(
            Contest(
                f"rtn {bits} ({kind.name})",
                "gguf",
                weight.size,
                run,
                lambda kind=kind: gguf.quantize(weight, kind),
                3.0,
            )
        )
    return contests


def _hqq(weight: np.ndarray) -> list[Contest]:
    try:
        import torch
        from hqq.core.quantize import Quantizer
    except ImportError:
        return []
    tensor = torch.from_numpy(weight)

    def theirs(bits: int) -> Callable[[], object]:
        return lambda: Quantizer.quantize(
            tensor, nbits=bits, group_size=64, axis=1, round_zero=bits == 4, compute_dtype=torch.float16, device="cpu"
        )

    lines = [Contest(f"hqq {b}", "hqq", weight.size, ours("hqq", weight, bits=b), theirs(b), 10.0) for b in (4, 3, 2)]
    return [*lines, Contest("ls 4 (hqq 4)", "hqq", weight.size, ours("ls", weight), theirs(4), None)]


def measure(contests: list[Contest], rounds: int) -> list[Line]:
    """Every contest once to warm up, then `rounds` times, ours and theirs by turns."""
    times: dict[tuple[int, int], list[float]] = {}
    for turn in range(rounds + 1):
        for number, contest in enumerate(contests):
            for side, run in enumerate((contest.ours, contest.theirs)):
                start = time.perf_counter()
                run()
                if turn:
                    times.setdefault((number, side), []).append(time.perf_counter() - start)
    lines = []
    for number, contest in enumerate(contests):
        mine, other = (statistics.median(times[number, side]) for side in (0, 1))
        speeds = (contest.weights / mine / 1e6, contest.weights / other / 1e6)
        lines.append(Line(contest.name, contest.peer, *speeds, other / mine, contest.target))
    return lines


def table(lines: list[Line]) -> str:
    """The lines as a Markdown table."""
    rows = ["| method | ours, M weights/s | peer | M weights/s | ratio | target |", "|---|---|---|---|---|---|"]
    for line in lines:
        target = "–" if line.target is None else f"≥ {line.target:g}"
        speeds = f"{line.ours:.0f} | {line.peer} | {line.theirs:.1f}"
        rows.append(f"| {line.name} | {speeds} | {line.ratio:.1f} | {target} |")
    return "\n".join(rows)


def machine(threads: int) -> dict[str, object]:
    """What the numbers depend on."""
    from qformat.converters.methods import active

    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    packages = [name for name in ("numpy", "torch", "bitsandbytes", "gguf", "hqq") if find_spec(name) is not None]
    versions = {name: version(name) for name in packages}
    return {
        "processor": names[0] if names else platform.processor(), "cores": os.cpu_count(), "threads": threads,
        "kernel": active(), "python": platform.python_version(), "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--untested", action="store_true", help="do not run the tests first")
    arguments = parser.parse_args()
    if not arguments.untested:
        tests = [sys.executable, "-m", "pytest", "-q", "tests/converters/methods"]
        if subprocess.run(tests, cwd=ROOT, check=False).returncode:
            raise SystemExit("the tests of the methods fail: no numbers")
    warnings.simplefilter("ignore")
    from qformat.converters.methods import set_threads

    set_threads(arguments.threads)
    if find_spec("torch") is not None:
        import torch

        torch.set_num_threads(arguments.threads)
    random = np.random.default_rng(0)
    weight = (random.standard_t(5, (arguments.rows, arguments.columns)) * 0.02).astype(np.float16).astype(np.float32)
    lines = measure(contests(weight), arguments.rounds)
    print(table(lines))
    if arguments.json:
        result = {
            "machine": machine(arguments.threads),
            "shape": weight.shape,
            "lines": [line._asdict() for line in lines],
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
