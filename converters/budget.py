"""How many workers fit into the memory allowed, and which extents are put together in memory."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from qformat.converters.plan import Plan, slab_bytes, waiting_bytes
from qformat.errors import RecipeError

BASE = 112 * 2**20  # the interpreter with numpy, the index being gathered, buffers of the writer
WORKER_PROCESS = 64 * 2**20
AHEAD = 64 * 2**20  # packed slabs that wait, so that workers go on while a tensor is hashed and written
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True)
class Budget:
    """What a run may use at once."""

    workers: int
    window: int  # slabs under way or waiting to be written
    assembly: int  # extents up to this size are put together in memory, larger ones in a file
    peak: int  # bytes at the worst moment


def parse_size(text: str | int) -> int:
    """Bytes: a number, or text such as 2GiB, 512M, 1.5g (units are powers of 1024)."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", str(text), re.IGNORECASE)
    if not match:
        raise RecipeError("not a size", expected="such as 512M or 2GiB", found=text)
    return int(float(match[1]) * _UNITS[match[2].lower()])


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def make_budget(plan: Plan, max_memory: int, workers: int | None, *, processes: bool = False) -> Budget:
    """As many workers as processors and memory allow; RecipeError if not even one fits."""
    if workers is not None and workers < 1:
        raise RecipeError("needs at least one worker", field="workers", found=workers)
    slab = max((slab_bytes(item) for item in plan.items), default=0)
    packed = max((waiting_bytes(item) for item in plan.items if item.method), default=0)
    largest = max((item.length for item in plan.items if item.method), default=0)
    each = slab + 2 * packed + (WORKER_PROCESS if processes else 0)
    floor = BASE + each + min(largest, 4 * 2**20)
    if max_memory < floor:
        raise RecipeError(
            "too little memory for one slab of the largest tensor",
            field="max_memory",
            expected=f"≥ {-(-floor // 2**20)} MiB",
            found=max_memory,
        )
    assembly = min(largest, max(4 * 2**20, min(256 * 2**20, (max_memory - BASE - each) // 4)))
    fitting = (max_memory - BASE - assembly) // each if each else processors()
    count = max(1, min(workers or processors(), fitting))
    small = workers is None and plan.source.nbytes < 8 * 2**20
    count = 1 if small else count
    ahead = 2 * count + 2 + AHEAD // max(packed, 1)
    window = max(2, min(ahead, (max_memory - BASE - assembly - count * each) // max(packed, 1) + count))
    return Budget(count, window, assembly, BASE + assembly + count * each + max(0, window - count) * packed)
