"""A checkpoint larger than the memory allowed, and a tensor larger than it: the bound holds all the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.converters.checkpoints import raw_safetensors

MIB = 2**20

# The child watches its own memory: anonymous pages, and its share of the pages of mapped files.
CHILD = """
import sys, threading, time
import qformat
worst, over = 0, threading.Event()
def watch():
    global worst
    while not over.wait(0.01):
        for line in open("/proc/self/smaps_rollup"):
            if line.startswith("Pss:"):
                worst = max(worst, int(line.split()[1]) * 1024)
watcher = threading.Thread(target=watch)
watcher.start()
qformat.convert(sys.argv[1], sys.argv[2], method=sys.argv[3], max_memory=int(sys.argv[4]), workers=2)
over.set()
watcher.join()
print(worst)
"""


def big_checkpoint(path: Path, shapes: dict[str, tuple[int, int]]) -> int:
    """Random bfloat16 weights written piece by piece; the number of bytes."""
    header, position = {}, 0
    for name, (rows, columns) in shapes.items():
        end = position + 2 * rows * columns
        header[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [position, end]}
        position = end
    raw_safetensors(path, json.dumps(header).encode())
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal(8 * MIB, np.float32) * 0.02).astype(ml_dtypes.bfloat16).tobytes()
    left = position
    with open(path, "ab") as stream:
        while left:
            start = 2 * int(rng.integers(0, MIB))
            piece = noise[start : start + left]
            stream.write(piece)
            left -= len(piece)
    return position


def peak(path: Path, out: Path, method: str, limit: int) -> int:
    command = [sys.executable, "-c", CHILD, path, out, method, str(limit)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("method", ["rtn", "nf4"])
def test_a_tensor_larger_than_the_budget(method: str, tmp_path: Path) -> None:
    """600 MB in which one linear has 384 MB and a dense tensor 128 MB, under 192 MiB."""
    shapes = {"embed_tokens.weight": (16384, 4096), "layers.0.up_proj.weight": (49152, 4096)}
    shapes |= {"layers.1.up_proj.weight": (4096, 11008)}
    size = big_checkpoint(tmp_path / "x.safetensors", shapes)
    assert size > 590 * MIB
    assert peak(tmp_path / "x.safetensors", tmp_path / "x.qf", method, 192 * MIB) < 192 * MIB


def test_what_waits_counts(tmp_path: Path) -> None:
    """Sinq samples rows of a tensor of several slabs before it codes them: few tensors may wait with theirs."""
    shapes = {f"layers.{i}.up_proj.weight": (2816, 1024) for i in range(40)}
    big_checkpoint(tmp_path / "x.safetensors", shapes)
    assert peak(tmp_path / "x.safetensors", tmp_path / "x.qf", "sinq", 320 * MIB) < 320 * MIB


@pytest.mark.slow
def test_ten_gigabytes(tmp_path: Path) -> None:
    """Ten gigabytes, one tensor larger than the budget of 1 GiB."""
    shapes = {f"layers.{i}.{part}_proj.weight": (14336, 8192) for i in range(18) for part in ("gate", "up")}
    shapes["layers.18.up_proj.weight"] = (131072, 8192)
    size = big_checkpoint(tmp_path / "x.safetensors", shapes)
    assert size > 10 * 10**9
    assert peak(tmp_path / "x.safetensors", tmp_path / "x.qf", "rtn", 1024 * MIB) < 1024 * MIB
