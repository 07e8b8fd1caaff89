"""Pages of the file are shared between processes, and a rank that needs some rows reads no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qformat import container, linear, schemes
from qformat.converters.methods import quantize

MIB = 1 << 20

# What a child does: map the file, use it, tell what the kernel counts, and wait until all have.
HEAD = """
import sys
import numpy as np
import qformat

def counted(path, key):
    # kilobytes of the file's mapping that smaps counts under `key`
    total, inside = 0, False
    for line in open("/proc/self/smaps"):
        if "-" in line.split()[0] and not line.split()[0].endswith(":"):
            inside = path in line
        elif inside and line.startswith(key + ":"):
            total += int(line.split()[1])
    return total

path = sys.argv[1]
model = qformat.open(path)
tensor = model["w"]
"""
SHARE = (
    HEAD
    + """
import torch
from qformat.torch import QLinear
layer = QLinear(tensor)
layer(torch.zeros(1, layer.in_features))
print("used", flush=True)
sys.stdin.readline()
print(counted(path, "Rss"), counted(path, "Pss"), flush=True)
sys.stdin.readline()
"""
)
SLICE = (
    HEAD
    + """
start, stop = int(sys.argv[2]), int(sys.argv[3])
tensor.decode("float16", rows=slice(start, stop))
print(counted(path, "Rss"))
"""
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8192 × 8192 at 4 bits: 36 MB in panels, nine chunks."""
    path = tmp_path_factory.mktemp("large") / "large.qf"
    block = np.random.default_rng(0).standard_normal((512, 8192)).astype(np.float32)
    weight = np.tile(block, (16, 1))
    coded = quantize("rtn", weight, bits=4, group_size=64)
    data = linear.pack(coded.scheme, weight.shape, coded.arrays, coded.parameters)
    with container.create(path) as writer:
        scheme = schemes.dump(coded.scheme)
        writer.tensor("w", scheme=scheme, dtype="float32", shape=weight.shape, length=len(data), data=[data])
        writer.finish({})
    return path


def test_processes_share_the_pages(large: Path) -> None:
    """Each of three processes that have used the whole weight has all of it in memory and owns a third of it (PSS)."""
    command = [sys.executable, "-c", SHARE, str(large)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "used\n"
        for child in children:  # all have used it; none has left
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        numbers = [tuple(map(int, child.stdout.readline().split())) for child in children if child.stdout is not None]
    finally:
        for child in children:
            child.communicate("\n")
    size = large.stat().st_size / 1024
    for resident, proportional in numbers:
        assert resident > 0.9 * size
        assert proportional < 0.4 * size


def test_row_slices_read_only_their_bytes(large: Path) -> None:
    """A rank's eighth of the rows touches that eighth of the file, up to whole chunks of 4 MiB at both ends."""
    rows, ranks = 8192, 8
    for rank in (0, 3, 7):
        start, stop = rows // ranks * rank, rows // ranks * (rank + 1)
        command = [sys.executable, "-c", SLICE, str(large), str(start), str(stop)]
        touched = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1024
        its_own = large.stat().st_size // ranks
        assert its_own * 0.9 < touched < its_own + 2 * 4 * MIB + MIB
