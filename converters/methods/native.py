"""Native loops or their numpy twins: one choice at first use, by `QFORMAT_KERNEL` as for the kernels.

`reference` is the twins; `generic`, `avx2` and `avx512` are builds of one C++ source. Without the variable the widest
that the processor has is taken. All give the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from numpy.typing import NDArray

from qformat.converters.methods.bindings import Bindings
from qformat.errors import KernelError

_threads = 0


def set_threads(count: int) -> None:
    """Threads inside a native loop from now on in this process; 0: as many as the process may use."""
    global _threads
    if count < 0:
        raise KernelError("threads must not be negative", found=count)
    _threads = count


def get_threads() -> int:
    """Threads inside a native loop."""
    return _threads or len(os.sched_getaffinity(0))


def _extension() -> Any | None:
    try:
        return import_module("qformat.converters.methods._native")
    except ImportError:
        return None  # not built: the twins are slower, and equal


def available() -> list[str]:
    """Names that `QFORMAT_KERNEL` may have here, slowest first."""
    extension = _extension()
    return ["reference", *(extension.available() if extension is not None else [])]


_active: str | None = None
_loops: Bindings | None = None


def select(name: str | None) -> None:
    """Run the loops called `name` from now on; None: what `QFORMAT_KERNEL` says, else the widest."""
    global _active, _loops
    name = name or os.environ.get("QFORMAT_KERNEL") or available()[-1]
    if name not in available():
        raise KernelError("no such kernel here", field="QFORMAT_KERNEL", expected=", ".join(available()), found=name)
    _active, _loops = name, None
    if name != "reference":
        extension: Any = _extension()
        extension.select(name)
        _loops = Bindings(extension)


def active() -> str:
    """The name of what runs."""
    if _active is None:
        select(None)
    assert _active is not None
    return _active


def slab(work: Any, raw: NDArray[Any], out: NDArray[Any]) -> tuple[NDArray[Any], tuple[float, float]] | None:
    """The pass of `fused.py` over a slab: (errors, (largest, small)), or None when it gave up; it has no twin."""
    active()
    assert _loops is not None
    return _loops.slab(work, raw, out, threads=get_threads())


def loop(name: str, twin: Callable[..., Any]) -> Callable[..., Any]:
    """The native loop called `name`, or its twin."""
    if active() == "reference":
        return twin
    return partial(getattr(_loops, name), threads=get_threads())
