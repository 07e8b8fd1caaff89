"""Native loops or their numpy twins: one choice at import, by `QFORMAT_KERNEL` as for the kernels.

`reference` is the twins; `generic`, `avx2` and `avx512` are builds of one C++ source. Without the variable the widest
that the processor has is taken. All give the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

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
        from qformat.converters.methods import _native
    except ImportError:
        return None  # not built: the twins are slower, and equal
    return _native


def _choose() -> str:
    extension = _extension()
    available = ["reference", *(extension.available() if extension is not None else [])]
    asked = os.environ.get("QFORMAT_KERNEL")
    if asked and asked not in available:
        raise KernelError("no such kernel here", field="QFORMAT_KERNEL", expected=", ".join(available), found=asked)
    chosen = asked or available[-1]
    if extension is not None and chosen != "reference":
        extension.select(chosen)
    return chosen


_active: str | None = None


def active() -> str:
    """The name of what runs."""
    global _active
    if _active is None:
        _active = _choose()
    return _active


def loop(name: str, twin: Callable[..., Any]) -> Callable[..., Any]:
    """The native loop called `name`, or its twin; the native one is given the number of threads."""
    if active() == "reference":
        return twin
    found = getattr(_extension(), name)
    return lambda *arguments: found(*arguments, threads=get_threads())
