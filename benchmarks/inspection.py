"""How fast one looks and checks: `inspect` of 10,000 tensors, opening 100,000, `verify` beside a plain read.

    python benchmarks/inspection.py [--rounds 15] [--json results.json]

Every round takes each measurement once, one after the other, so that a slow minute of the machine touches all alike;
medians are printed. The tests of what is measured run first (`--no-tests` skips them while working on this file).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blake3
import numpy as np

from qformat import container
from qformat.container.sources import memory
from qformat.report import numbers
from qformat.report.layout import Column, Table
from qformat.report.terminal import Printer

GIGABYTE = 1 << 30
DENSE = {"coding": {"coding": "dense", "dtype": "float16"}}
AFFINE = {
    "coding": {
        "coding": "affine",
        "bits": 4,
        "group": {"group": "block", "columns": 64},
        "scales": {"coding": "dense", "dtype": "float16"},
        "zeros": {"coding": "dense", "dtype": "float16"},
    },
    "method": "hqq",
}
LAYER = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
         "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]  # fmt: skip


def write_many(path: Path, count: int) -> None:
    """A file of `count` small tensors, named and stored like a deep Llama's."""
    data = bytes(64)
    with container.create(path) as writer:
        for index in range(count):
            layer, part = divmod(index, len(LAYER))
            norm = part > 6
            writer.tensor(
                f"model.layers.{layer}.{LAYER[part]}.weight", scheme=DENSE if norm else AFFINE, dtype="bfloat16",
                shape=(32,) if norm else (16, 64), length=64, data=[data], error=None if norm else 0.08,
            )  # fmt: skip
        writer.finish({"general.name": "many tensors", "general.architecture": "llama"})


def write_large(path: Path, size: int, each: int = 32 << 20) -> None:
    """A file of `size` random bytes in tensors of `each` bytes."""
    random = np.random.default_rng(0)
    step = min(each, 32 << 20)
    with container.create(path) as writer:
        for index in range(size // each):
            data = (random.integers(0, 256, step, np.uint8) for _ in range(each // step))
            writer.tensor(f"model.layers.{index}.weight", scheme=DENSE, dtype="float16", shape=(each // 8192, 4096),
                          length=each, data=data)  # fmt: skip
        writer.finish({})


def run(cache: Path, *arguments: str) -> Callable[[], object]:
    """A process from start to end, its output thrown away. Modules are compiled once, as in any installation."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def once() -> object:
        return subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, env=environment)

    return once


def open_and_close(path: Path) -> Callable[[], object]:
    """Opening: preamble, trailer, index and its validation."""

    def once() -> object:
        with container.open(path) as opened:
            return len(opened)

    return once


def verify(path: Path, workers: int) -> Callable[[], object]:
    """Every hash of a file."""

    def once() -> object:
        with container.open(path) as opened:
            bad = opened.verify(workers=workers)
            assert not bad, bad
            return None

    return once


def read_plainly(path: Path, workers: int) -> Callable[[], object]:
    """The same bytes read by as many threads, each forward through its share, into one buffer per thread."""
    size = path.stat().st_size

    def share(part: int) -> None:
        with open(path, "rb", buffering=0) as stream:
            buffer = memoryview(bytearray(4 << 20))
            start, stop = size * part // workers, size * (part + 1) // workers
            while start < stop:
                start += os.preadv(stream.fileno(), [buffer[: stop - start]], start)

    def once() -> object:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(share, range(workers)))

    return once


def hash_memory(size: int, threads: int) -> Callable[[], object]:
    """BLAKE3 of zeros in memory, 16 MiB at a time."""
    held, step = np.zeros(size, np.uint8), 16 << 20

    def once() -> object:
        digest = blake3.blake3(max_threads=threads)
        for start in range(0, size, step):
            digest.update(held[start : start + step])
        return digest.digest()

    return once


def touch(pause: float) -> Callable[[], float]:
    """Seconds to touch 32 MiB of new memory, `pause` seconds after the process has freed as much."""

    def new() -> float:
        room = memory(32 << 20)
        start = time.perf_counter()
        room[::4096] = 1
        return time.perf_counter() - start

    def once() -> float:
        new()
        time.sleep(pause)
        return new()

    return once


def measure(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round (its own, if it says so), after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, once in work.items():
            start = time.perf_counter()
            said = once()
            if number:
                times[name].append(said if isinstance(said, float) else time.perf_counter() - start)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=GIGABYTE, help="bytes of the file that is verified")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-tests", action="store_true")
    options = parser.parse_args()
    if not options.no_tests:
        root = Path(__file__).parent.parent
        code = subprocess.call([sys.executable, "-m", "pytest", "-q", "tests/cli", "tests/report"], cwd=root)
        if code:
            print("error: the tests fail; no number is worth anything", file=sys.stderr)
            return code
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        ten, hundred, large, one = (Path(folder) / name for name in ("10k.qf", "100k.qf", "large.qf", "one.qf"))
        write_many(ten, 10_000)
        write_many(hundred, 100_000)
        write_large(large, options.size)
        write_large(one, options.size, options.size)
        cache, cli = Path(folder) / "bytecode", ["-c", "from qformat.cli.main import run; run()", "inspect"]
        work = {
            "python, nothing else": run(cache, "-c", "pass"),
            "python, import numpy": run(cache, "-c", "import numpy"),
            "inspect, 10,000 tensors": run(cache, *cli, str(ten)),
            "inspect --tensors, 10,000 tensors": run(cache, *cli, "--tensors", str(ten)),
            "inspect --json, 10,000 tensors": run(cache, *cli, "--json", str(ten)),
            "open, 10,000 tensors": open_and_close(ten),
            "open, 100,000 tensors": open_and_close(hundred),
            "touch 32 MiB, freed just before": touch(0),
            "touch 32 MiB, freed 2 s before": touch(2),
            "blake3 in memory, 1 thread": hash_memory(options.size // 4, 1),
            f"blake3 in memory, {workers} threads": hash_memory(options.size // 4, workers),
            "plain read, 1 thread": read_plainly(large, 1),
            "verify, 1 thread": verify(large, 1),
            f"plain read, {workers} threads": read_plainly(large, workers),
            f"verify, {workers} threads": verify(large, workers),
            f"verify, {workers} threads, one tensor": verify(one, workers),
            "qformat verify, the command": run(cache, *cli[:-1], "verify", str(large)),
        }
        times = measure(work, options.rounds)
        size = large.stat().st_size
    report(times, size, options.json)
    return 0


def report(times: dict[str, list[float]], size: int, path: Path | None) -> None:
    """The table on stdout, the numbers in a file."""
    table = Table(
        [Column("", elastic=True), Column("median", "right"), Column("least", "right"), Column("rate", "right")]
    )
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        large = name.startswith(("verify", "plain", "qformat", "blake3"))
        rate = numbers.rate(size // 4 if name.startswith("blake3") else size, middle) if large else ""
        table.add(name, f"{middle * 1e3:.1f} ms", f"{min(seconds) * 1e3:.1f} ms", rate)
    printer = Printer()
    printer.lines(table.lines(printer.width))
    if path is not None:
        facts = {
            "machine": machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d"),
            "verified_bytes": size,
            "seconds": times,
        }
        path.write_text(json.dumps(facts, indent=1) + "\n")


def machine() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
