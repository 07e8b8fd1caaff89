"""The machine under the figures: plain reads and writes, pages, where the host has the cores, names and dates."""

from __future__ import annotations

import ctypes
import datetime
import mmap
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

HUGE = 2 << 20

# Files written in such blocks are mapped by small pages, and, where the file system has large ones, by pages of 2 MiB.
SMALL_BLOCK, LARGE_BLOCK = 256 << 10, 4 << 20

PREFETCH = 4096  # bytes ahead

# An area counts as memory of its own from here; smaller ones are the interpreter's.
LARGE = 4 << 20

# Between neighbours that an allocator has put side by side.
GAP = 16 << 10

MADV_COLLAPSE = 25
TRIES = 5


@cache
def library() -> Path:
    """plain_read.cpp, compiled for this machine; the one that PLAIN_READ names if a parent process has done it."""
    if done := os.environ.get("PLAIN_READ"):
        return Path(done)
    target = Path(tempfile.mkdtemp()) / "plain_read.so"
    source = Path(__file__).with_name("plain_read.cpp")
    flags = ["-O3", "-march=native", "-std=c++20", "-shared", "-fPIC", "-pthread"]
    subprocess.run(["g++", *flags, str(source), "-o", str(target)], check=True)
    return target


@cache
def _native() -> ctypes.CDLL:
    native = ctypes.CDLL(str(library()))
    native.plain_read.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_size_t]
    native.plain_write.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int]
    for function in (native.plain_read, native.plain_write, native.sharing, native.round_trip):
        function.restype = ctypes.c_double
    return native


# -- speed -------------------------------------------------------------------------------------------------------------


def plain_read(areas: list[Bytes], threads: int, prefetch: bool) -> float:
    """Bytes per second of one forward stream per thread over every area."""
    read, ahead = _native().plain_read, PREFETCH if prefetch else 0
    return float(sum(a.nbytes for a in areas) / sum(read(a.ctypes.data, a.nbytes, threads, ahead) for a in areas))


def plain_write(area: Bytes, threads: int, streaming: bool) -> float:
    """Bytes per second of one forward stream of stores per thread; `streaming` stores go past the caches."""
    return float(area.nbytes / _native().plain_write(area.ctypes.data, area.nbytes, threads, streaming))


def state() -> str:
    """Where the host has the first two cores: SMT (threads of one core); of AMD's, 1CCD or 2CCD, as they share a cache
    or do not; of others, 2C, any two."""
    if (os.cpu_count() or 1) < 2:
        return "1"
    if _native().sharing() > 1.4:
        return "SMT"
    if not _has_complexes():
        return "2C"
    return "1CCD" if _native().round_trip() < 150 else "2CCD"


@cache
def _has_complexes() -> bool:
    """Whether lines of the cache go from core to core fast or slowly, for the cores are in groups with a cache each."""
    return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()


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


# -- pages -------------------------------------------------------------------------------------------------------------


def huge(size: int) -> Bytes:
    """Private memory on huge pages."""
    area = mmap.mmap(-1, size + HUGE)
    area.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(area, np.uint8)
    start = -whole.ctypes.data % HUGE
    whole[start : start + size] = 0
    return whole[start : start + size]


def collapse(areas: list[Bytes]) -> None:
    """Move memory to huge pages where it lies.

    Raises:
        OSError: the kernel cannot, for want of room that hangs together.
    """
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for area in areas:
        first = -(-area.ctypes.data // HUGE) * HUGE
        last = (area.ctypes.data + area.nbytes) // HUGE * HUGE
        tries = 0
        while last > first and madvise(first, last - first, MADV_COLLAPSE):
            if (tries := tries + 1) > TRIES:
                raise OSError(ctypes.get_errno(), "no room for huge pages")
            make_room()


def make_room() -> None:
    """Have the kernel put its free pages together. Only root may ask for it; else it does so in its own time."""
    try:
        Path("/proc/sys/vm/compact_memory").write_text("1")
    except PermissionError:
        time.sleep(1)


def rewrite(path: Path, block: int) -> None:
    """Write a file anew in aligned blocks of this size: its pages in the cache, and in mappings, get no larger."""
    copy = path.with_name(f"{path.name}.copy")
    with path.open("rb") as source, copy.open("wb", buffering=0) as target:
        shutil.copyfileobj(source, target, block)
    copy.replace(path)


def available() -> int:
    """Bytes that the system could still hand out."""
    found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) << 10 if found else 0


def private() -> list[tuple[int, int]]:
    """(start, end) of this process's large private areas that are in memory whole, in order."""
    areas = []
    for entry in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw.p \w+ 00:00 0", entry)
        resident = re.search(r"\nRss: +(\d+) kB", entry)
        if head is None or resident is None:
            continue
        start, end = int(head[1], 16), int(head[2], 16)
        if end - start >= LARGE and int(resident[1]) << 10 >= 0.98 * (end - start):
            areas.append((start, end))
    return areas


def new_since(before: list[tuple[int, int]]) -> list[Bytes]:
    """What `private` has now beyond `before`, as arrays."""
    found = []
    for start, end in private():
        pieces = [(start, end)]
        for low, high in before:
            pieces = [p for a, b in pieces for p in ((a, min(b, low)), (max(a, high), b)) if p[0] < p[1]]
        found += [at(a, b - a) for a, b in pieces if b - a >= LARGE]
    return found


def joined(pieces: list[tuple[int, int]]) -> list[Bytes]:
    """Memory that somebody else owns, as (address, size); neighbours become one array."""
    found: list[list[int]] = []
    for address, size in sorted(pieces):
        if found and address - found[-1][1] <= GAP:
            found[-1][1] = address + size
        else:
            found.append([address, address + size])
    return [at(start, end - start) for start, end in found]


def at(address: int, size: int) -> Bytes:
    """Memory of this process that somebody else owns."""
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)


# -- names -------------------------------------------------------------------------------------------------------------


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
