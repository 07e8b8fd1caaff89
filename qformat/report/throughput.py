"""How fast a file's own tensors are multiplied with and decoded on this machine, beside a plain read of their pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qformat import kernels
from qformat.store import Model
from qformat.tensor import Tensor

# Bytes in rotation from which a pass reads memory and not a cache: below, a share of a plain read would mean nothing.
IN_MEMORY = 128 << 20

# Stored bytes of each kind in rotation: more would only take longer.
MOST = 1 << 30


class Kind(NamedTuple):
    """What decides the work of a kernel: tensors that are equal in it are timed together."""

    coding: str
    bits: int | None
    group_size: int | None
    layout: str | None
    shape: tuple[int, int]


@dataclass(frozen=True)
class Throughput:
    """Medians over the rounds of one operation on the tensors of one kind."""

    coding: str
    bits: int | None
    group_size: int | None
    layout: str | None
    shape: tuple[int, int]
    tensors: int
    operation: str
    bytes_per_second: float
    weights_per_second: float
    share: float | None  # of the plain read; None for kinds that caches hold


def throughput(model: Model, *, rounds: int = 5) -> Iterator[Throughput]:
    """Time `matvec` in both modes and `decode` of each kind of quantized matrices.

    In a round the pages of the tensors are read plainly, then each operation passes over them once; a share compares
    neighbours in time. The plain read is one forward stream for each kernel thread, the better of with and without
    prefetch.

    Args:
        model: an open file.
        rounds: counted after one that is not, which touches the pages for the first time.
    """
    for kind, tensors in _kinds(model).items():
        rows, inputs = kind.shape
        passes = _operations(np.random.default_rng(0).standard_normal(inputs, np.float32))
        n_bytes, weights = sum(t.nbytes for t in tensors), len(tensors) * rows * inputs
        extents = [t.extent() for t in tensors]
        seconds: dict[str, list[float]] = {name: [] for name in passes}
        plain: list[float] = []
        for _ in range(rounds + 1):
            plain.append(_plain_read(extents))
            for name, operation in passes.items():
                begun = time.perf_counter()
                for tensor in tensors:
                    operation(tensor)
                seconds[name].append(time.perf_counter() - begun)
        read = sum(extent.nbytes for extent in extents)
        for name, taken in seconds.items():
            shares = [(n_bytes / own) / (read / other) for own, other in zip(taken[1:], plain[1:], strict=True)]
            share = median(shares) if read >= IN_MEMORY else None
            middle = median(taken[1:])
            yield Throughput(*kind, len(tensors), name, n_bytes / middle, weights / middle, share)


def _operations(x: NDArray[np.float32]) -> dict[str, Callable[[Tensor], object]]:
    """What is timed, by name."""
    return {
        "matvec exact": lambda tensor: tensor.matvec(x, "exact"),
        "matvec int8": lambda tensor: tensor.matvec(x, "int8"),
        "decode": lambda tensor: tensor.decode(),
    }


def _kinds(model: Model) -> dict[Kind, list[Tensor]]:
    """Quantized matrices by kind, in the file's order, aliases left out: of each kind one, or up to `MOST` bytes."""
    kinds: dict[Kind, list[Tensor]] = {}
    for name in model:
        tensor = model[name]
        rows, inputs = tensor.matrix_shape
        if model.container.record(name).target is not None or tensor.coding == "dense" or not rows * inputs:
            continue
        layout = getattr(tensor.scheme.coding, "layout", None)
        found = kinds.setdefault(Kind(tensor.coding, tensor.bits, tensor.group_size, layout, (rows, inputs)), [])
        if not found or sum(t.nbytes for t in found) + tensor.nbytes <= MOST:
            found.append(tensor)
    return kinds


def _plain_read(extents: Sequence[NDArray[np.uint8]]) -> float:
    """Seconds to read every byte once."""

    def seconds(prefetch: bool) -> float:
        begun = time.perf_counter()
        for extent in extents:
            kernels.plain_read(extent, prefetch=prefetch)
        return time.perf_counter() - begun

    return min(seconds(False), seconds(True))
