"""The machine under the figures: plain reads and writes, pages, where the host has the cores, names and dates."""

from __future__ import annotations

import ctypes
import datetime
import mmap
import os
import platform
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

THREADS = 2
PREFETCH = (0, 2048, 8192)


@cache
def _library() -> ctypes.CDLL:
    folder = tempfile.mkdtemp()
    target = Path(folder) / "plain_read.so"
    source = Path(__file__).with_name("plain_read.cpp")
    flags = ["-O3", "-march=native", "-std=c++20", "-shared", "-fPIC", "-pthread"]
    subprocess.run(["g++", *flags, str(source), "-o", str(target)], check=True)
    library = ctypes.CDLL(str(target))
    library.plain_read.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_size_t]
    library.plain_write.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for function in (library.plain_read, library.plain_write, library.sharing, library.round_trip):
        function.restype = ctypes.c_double
    return library


def plain_read(buffer: NDArray[np.uint8], threads: int = THREADS) -> float:
    """Bytes per second of one forward stream per thread, the better of with and without prefetch."""
    read = _library().plain_read
    return float(buffer.nbytes / min(read(buffer.ctypes.data, buffer.nbytes, threads, ahead) for ahead in PREFETCH))


def plain_write(buffer: NDArray[np.uint8], threads: int = THREADS) -> float:
    """Bytes per second of one forward stream of stores per thread."""
    return float(buffer.nbytes / _library().plain_write(buffer.ctypes.data, buffer.nbytes, threads))


def state() -> str:
    """Where the host has the first two cores: 2CCD (no cache shared), 1CCD, or SMT (threads of one core)."""
    if (os.cpu_count() or 1) < 2:
        return "1"
    if _library().sharing() > 1.4:
        return "SMT"
    return "1CCD" if _library().round_trip() < 150 else "2CCD"


class Busy(NamedTuple):
    """A moment: its time, and the CPU seconds that all processes and this one have had."""

    time: float
    everyone: float
    own: float

    def since(self) -> float:
        """Cores that other processes had on average since then."""
        now = others()
        return max(now.everyone - self.everyone - now.own + self.own, 0.0) / (now.time - self.time)


def others() -> Busy:
    """Now, to ask later what other processes had."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    busy = sum(fields[:3]) + sum(fields[5:7])  # user, nice, system; irq, softirq
    return Busy(time.perf_counter(), busy / os.sysconf("SC_CLK_TCK"), time.process_time())


def huge(size: int) -> NDArray[np.uint8]:
    """Private memory on huge pages."""
    area = mmap.mmap(-1, size + (2 << 20))
    area.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(area, np.uint8)
    start = -whole.ctypes.data % (2 << 20)
    whole[start : start + size] = 0
    return whole[start : start + size]


def description() -> dict[str, Any]:
    """Processor, kernel and date."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.release(),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
    }
