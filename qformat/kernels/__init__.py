"""Kernels: products and decoding straight from stored extents, and the choice between instruction sets.

`QFORMAT_KERNEL` forces one of NAMES; an unknown or unavailable name is an error, never a silent default. `reference` is
the numpy decoder and a product of float32: the definition that the others are tested against.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qformat.errors import KernelError
from qformat.kernels import _native
from qformat.kernels.operand import FEATURES, Mode, decode_rows, float_type, matvecs
from qformat.kernels.product import Product

__all__ = [
    "NAMES",
    "Mode",
    "Product",
    "active",
    "available",
    "decode_rows",
    "float_type",
    "get_threads",
    "matvecs",
    "plain_read",
    "set_threads",
    "share_openmp",
]

# What the processor must offer for each, in order of preference.
_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "avx512vbmi", "gfni")
_NEEDS: dict[str, tuple[str, ...]] = {
    "amx": (*_AVX512, "amx-bf16"),
    "avx512": _AVX512,
    "avx2": ("avx2", "fma"),
    "generic": (),
    "reference": (),
}

NAMES = tuple(_NEEDS)


def available() -> tuple[str, ...]:
    """The kernels that this processor can run, the preferred one first."""
    return tuple(name for name, needs in _NEEDS.items() if FEATURES.issuperset(needs))


_PREFERRED = available()[0]


def active() -> str:
    """The kernel in use: `QFORMAT_KERNEL`, or the first of `available()`.

    Raises:
        KernelError: `QFORMAT_KERNEL` names no kernel, or one that this processor cannot run.
    """
    forced = _native.environment("QFORMAT_KERNEL")
    if not forced:
        return _PREFERRED
    if forced not in _NEEDS:
        raise KernelError("unknown kernel", field="QFORMAT_KERNEL", expected=", ".join(NAMES), found=forced)
    if forced not in available():
        missing = ", ".join(sorted(set(_NEEDS[forced]) - FEATURES))
        raise KernelError(f"this processor lacks {missing}", field="QFORMAT_KERNEL", found=forced)
    return forced


def set_threads(count: int) -> None:
    """Threads of a kernel call, in this process; 0 is one per core that the process may run on.

    Raises:
        ValueError: fewer than 0, or more than 1024.
    """
    if not 0 <= count <= 1024:
        raise ValueError(f"count is {count}, expected 0 to 1024")
    _native.set_threads(count)


def share_openmp() -> bool:
    """Run kernels on the threads of the OpenMP runtime that this process has loaded, not on their own.

    Beside torch, two sets of threads compete for the cores: OpenMP's spin for milliseconds after each loop. Where
    `set_threads` was not called, the runtime says how many there are. False if the process has loaded none.
    """
    return bool(_native.share_openmp())


def plain_read(extent: NDArray[np.uint8], *, prefetch: bool) -> int:
    """Read every byte once, one forward stream for each kernel thread: how fast memory is, if somebody times it.

    Args:
        extent: contiguous.
        prefetch: ask for lines ahead; which way is faster depends on the machine and its pages.

    Returns:
        The sum of the little-endian 64-bit words, and of the single bytes of what is left after the last 512.
    """
    return _native.plain_read(extent, prefetch)


def get_threads() -> int:
    """Threads of a kernel call."""
    return int(_native.threads())
