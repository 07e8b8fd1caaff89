"""Whole conversions against reading and writing the same bytes: `python benchmarks/convert_run.py [--layers N]`.

The floor reads the source once and writes as many bytes as the output has, on as many threads as there are processors,
each its share, with one fdatasync at the end: in the same round, on the same file system, from a warm page cache. A
conversion also hashes source and output, codes, and syncs as it goes. Who comes first changes from round to round.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import qformat

PIECE = 4 * 2**20
PATIENCE = 20  # seconds of conversions
HIDDEN, MLP, VOCAB = 4096, 14336, 32000


def checkpoint(path: Path, layers: int) -> int:
    """A bfloat16 Llama of noise, 4096 wide: an embedding and `layers` layers of the seven linears."""
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for i in range(layers):
        for part, rows in (("q", HIDDEN), ("k", 1024), ("v", 1024), ("o", HIDDEN)):
            shapes[f"model.layers.{i}.self_attn.{part}_proj.weight"] = (rows, HIDDEN)
        for part, shape in (("gate", (MLP, HIDDEN)), ("up", (MLP, HIDDEN)), ("down", (HIDDEN, MLP))):
            shapes[f"model.layers.{i}.mlp.{part}_proj.weight"] = shape
    header: dict[str, Any] = {}
    end = 0
    for name, (rows, columns) in shapes.items():
        header[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [end, end + 2 * rows * columns]}
        end += 2 * rows * columns
    raw = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal(2**23, np.float32) * 0.02).astype(ml_dtypes.bfloat16).tobytes()
    left = end
    with open(path, "wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        while left:
            start = 2 * int(rng.integers(0, 2**20))
            left -= stream.write(noise[start : start + left])
        os.fsync(stream.fileno())  # or its pages are written while the first rounds run
    return end


def floor(source: Path, out: Path, nbytes: int) -> float:
    """Seconds to read `source` and to write `nbytes` to `out`."""
    threads, size = os.cpu_count() or 1, source.stat().st_size
    start = time.perf_counter()
    reading, writing = os.open(source, os.O_RDONLY), os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    def share(index: int) -> None:
        buffer = memoryview(bytearray(PIECE))
        at, end = size * index // threads, size * (index + 1) // threads
        while at < end:
            at += os.preadv(reading, [buffer[: min(PIECE, end - at)]], at)
        at, end = nbytes * index // threads, nbytes * (index + 1) // threads
        while at < end:
            at += os.pwrite(writing, buffer[: min(PIECE, end - at)], at)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, range(threads)))
    os.fdatasync(writing)
    took = time.perf_counter() - start
    os.close(reading)
    os.close(writing)
    out.unlink()
    return took


def conversion(source: Path, out: Path, method: str) -> float:
    """Seconds of one whole conversion."""
    start = time.perf_counter()
    qformat.convert(source, out, method=method)
    return time.perf_counter() - start


def measure(source: Path, folder: Path, method: str, rounds: int) -> dict[str, Any]:
    """Medians of interleaved rounds; a slow method gets at least three of them and ends after `PATIENCE`."""
    times: list[float] = []
    floors: list[float] = []
    out = folder / "x.qf"
    conversion(source, out, method)  # not timed: it tells the size, and warms up
    nbytes = out.stat().st_size
    out.unlink()
    while len(times) < rounds and (len(times) < 3 or sum(times) < PATIENCE):
        for ours in (True, False) if len(times) % 2 else (False, True):
            if ours:
                times.append(conversion(source, out, method))
                out.unlink()
            else:
                floors.append(floor(source, folder / "floor", nbytes))
    took, least = statistics.median(times), statistics.median(floors)
    return {"method": method, "seconds": took, "floor": least, "ratio": took / least, "bytes": nbytes,
            "source_gb_per_second": source.stat().st_size / took / 1e9, "rounds": len(times)}  # fmt: skip


def main() -> None:
    """Tests first, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--methods", default="rtn,nf4,int8,ls,hqq")
    parser.add_argument("--folder", default=None, help="where to write; a temporary folder by default")
    parser.add_argument("--no-tests", action="store_true", help="when they have just run")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    tests = Path(__file__).parents[1] / "tests" / "converters" / "test_encode.py"
    if not options.no_tests and subprocess.run([sys.executable, "-m", "pytest", "-q", tests]).returncode:
        raise SystemExit("tests fail: nothing is timed")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        source = Path(name) / "model.safetensors"
        size = checkpoint(source, options.layers)
        rows = [measure(source, Path(name), method, options.rounds) for method in options.methods.split(",")]
    print(f"{size / 1e9:.2f} GB of bfloat16, {os.cpu_count()} processors, {platform.processor() or platform.machine()}")
    print("| method | seconds | read + write | ratio | source GB/s |\n|---|---|---|---|---|")
    for row in rows:
        print("| {method} | {seconds:.2f} | {floor:.2f} | {ratio:.1f} | {source_gb_per_second:.2f} |".format(**row))
    if options.json:
        machine = {"processors": os.cpu_count(), "machine": platform.machine(), "date": time.strftime("%Y-%m-%d")}
        options.json.write_text(json.dumps({"machine": machine, "source_bytes": size, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
