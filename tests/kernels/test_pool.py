"""The threads under the kernels: their own, or those of an OpenMP runtime that the process has loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qformat import kernels

# One weight in panels, and its product with ones: enough rows for several pieces of work.
PRODUCT = """
import os
import numpy as np
from qformat import kernels, linear
from qformat.converters.methods import quantize

weight = np.random.default_rng(0).standard_normal((2048, 256)).astype(np.float32)
coded = quantize("rtn", weight, bits=4, group_size=64)
data = np.frombuffer(linear.pack(coded.scheme, weight.shape, coded.arrays, coded.parameters), np.uint8)
parts = linear.parts(coded.scheme, weight.shape, coded.parameters, data)
product = kernels.Product(coded.scheme, weight.shape, coded.parameters, parts, data)

def result():
    return product.matvec(np.ones((1, 256), np.float32), "exact", kernels.active()).tobytes()

def in_child():
    # whether a forked child gets the same product
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"1" if result() == expected else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    return os.read(reading, 1) == b"1"

expected = result()
"""


def run(code: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", PRODUCT + code], check=True, capture_output=True, text=True, timeout=300
    ).stdout.split()


def test_without_a_runtime_the_threads_are_ours() -> None:
    assert run("print(kernels.share_openmp(), result() == expected, in_child())") == ["False", "True", "True"]


def test_beside_torch_its_threads_are_used() -> None:
    """Same bits, no thread of ours, torch's count unless one was set; a child that is forked falls back to its own."""
    code = """
import torch
kernels.set_threads(2)
torch.set_num_threads(3)
torch.ones(1 << 20).sum()
assert kernels.share_openmp()
before = len(os.listdir("/proc/self/task"))
print(result() == expected, kernels.get_threads())
kernels.set_threads(0)
print(result() == expected, kernels.get_threads(), len(os.listdir("/proc/self/task")) <= before, in_child())
torch.set_num_threads(1)
print(result() == expected, kernels.get_threads())
"""
    assert run(code) == ["True", "2", "True", "3", "True", "True", "True", "1"]


def test_a_system_that_gives_no_threads() -> None:
    """Products are the same with however few threads there are, and none is asked for again at every call."""
    code = """
import resource
with open("/proc/self/statm") as sizes:
    used = int(sizes.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))  # room for a few stacks
kernels.set_threads(200)
print(result() == expected)
there = os.listdir("/proc/self/task")
print(len(there) < 200, result() == expected, os.listdir("/proc/self/task") == there)
"""
    assert run(code) == ["True"] * 4


def test_more_threads_than_cores() -> None:
    """Short loops whose workers come late, or only after the loop is over, give the same bits every time."""
    code = """
import threading
for count in (2, 3, 16):
    kernels.set_threads(count)
    print(all(result() == expected for _ in range(3000)))
same = []
beside = [threading.Thread(target=lambda: same.append(all(result() == expected for _ in range(500)))) for _ in range(3)]
for thread in beside: thread.start()
for thread in beside: thread.join()
print(same == [True] * 3)
"""
    assert run(code) == ["True"] * 4


def test_a_process_that_ends_with_a_weight_in_its_hands_says_nothing() -> None:
    """As workers of a data loader do, which are ended while they hold what they were sent."""
    code = "import ctypes; ctypes.pythonapi.Py_IncRef(ctypes.py_object(product.operand.native))"
    command = [sys.executable, "-c", PRODUCT + code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert done.stderr == ""


@pytest.mark.parametrize("count", [-1, 1025, 10**6])
def test_counts_that_make_no_sense(count: int) -> None:
    before = kernels.get_threads()
    with pytest.raises(ValueError, match="1024"):
        kernels.set_threads(count)
    assert kernels.get_threads() == before
