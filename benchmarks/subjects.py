"""What is timed: a weight matrix in many copies, with the pages that hold them, and the product that reads them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import ml_dtypes
import numpy as np
from machine import Bytes

import qformat
from qformat import container, kernels, linear
from qformat.codings.grammar import Additive, Affine, Block, Coding, Dense, Lookup
from qformat.linear import Scheme

Shape = tuple[int, int]

PAGE = 4096
F16 = Dense(dtype="float16")


class Subject:
    """Copies of one matrix on pages of their own, so that a pass over them reads memory and not a cache.

    `nbytes` is what one copy stores, scales included; `areas` is the memory that holds all of them; `each` is how many
    copies one `call` multiplies with (more than one where a peer runs a whole graph).
    """

    nbytes: int
    count: int
    each: int = 1
    pages: str = "heap"
    areas: list[Bytes]

    def set_threads(self, threads: int) -> None:
        raise NotImplementedError

    def set_batch(self, rows: int) -> None:
        """Rows of x; what has no choice has one."""

    def call(self, i: int) -> object:
        raise NotImplementedError

    def plain(self, threads: int, other_way: bool) -> float | None:
        """Bytes per second that the memory gives for what a call does, in one of two ways; None if it is no limit."""
        return machine.plain_read(self.areas, threads, prefetch=other_way)

    def to_huge(self) -> None:
        raise NotImplementedError


class OnHeap(Subject):
    """A peer that keeps its weights where it allocates them: `areas` are moved to huge pages in place."""

    def to_huge(self) -> None:
        machine.collapse(self.areas)
        self.pages = "huge"


def copies(nbytes: int, size: int) -> int:
    """Copies of `nbytes` that make up `size`."""
    return max(math.ceil(size / nbytes), 2)


# -- ours --------------------------------------------------------------------------------------------------------------


def affine(bits: int, group: int) -> Affine:
    return Affine(bits=bits, group=Block(rows=1, columns=group), scales=F16, zeros=F16, layout="panel")


def additive(books: int, bits: int, width: int) -> Additive:
    return Additive(books=books, bits=bits, in_group=width, scales=F16, layout="panel")


NF4 = Lookup(bits=4, table="nf4", group=Block(rows=1, columns=64), scales=F16, layout="panel")

# coding, mode, dtype of x
OURS: dict[str, tuple[Coding, str, str]] = {
    **{f"affine {b} g{g}": (affine(b, g), "int8", "float32") for b in (8, 4, 3, 2) for g in (128, 64)},
    "affine 4 g128 exact": (affine(4, 128), "exact", "bfloat16"),
    "nf4 g64": (NF4, "int8", "float32"),
    "additive 2x8 g8": (additive(2, 8, 8), "int8", "float32"),
    "additive 4x4 g8": (additive(4, 4, 8), "int8", "float32"),
    "additive 8x4 g16": (additive(8, 4, 16), "int8", "float32"),
    "additive 1x16 g8": (additive(1, 16, 8), "exact", "float32"),
}


def one(coding: Coding, shape: Shape) -> tuple[Scheme, Bytes]:
    """A scheme and the bytes of one tensor of random codes."""
    rng = np.random.default_rng(0)
    scheme = Scheme(coding=coding)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, role in linear.roles(scheme, shape, ()).items():
        if role.bits is not None:
            arrays[name] = rng.integers(0, 2**role.bits, role.shape).astype(role.dtype)
        else:
            arrays[name] = (0.02 * rng.random(role.shape) + 0.01).astype(role.dtype)
    return scheme, linear.pack(scheme, shape, arrays)


def write(path: Path, scheme: Scheme, shape: Shape, extent: Bytes, count: int) -> None:
    """A file of `count` tensors of the same content on pages of their own."""
    how: Any = linear.dump(scheme)
    with container.create(path) as writer:
        for i in range(count):
            writer.tensor(
                f"t{i:05}", scheme=how, dtype="bfloat16", shape=shape, length=extent.nbytes, data=[memoryview(extent)]
            )
        writer.finish({})


class FromFile(Subject):
    """Tensors of a file."""

    pages = "file"
    _calls: list[Callable[[], object]]

    def __init__(self, coding: Coding, shape: Shape, size: int) -> None:
        self.shape = shape
        self.scheme, self.extent = one(coding, shape)
        self.nbytes, self.count = self.extent.nbytes, copies(self.extent.nbytes, size)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bench.qf"
            write(path, self.scheme, shape, self.extent, self.count)
            self.model = qformat.open(path)  # the mapping outlives the name
        self.tensors = [self.model[name] for name in self.model]
        first, last = self.tensors[0].extent(), self.tensors[-1].extent()
        length = last.ctypes.data + last.nbytes - first.ctypes.data
        self.areas = [np.lib.stride_tricks.as_strided(first, (length,), (1,), writeable=False)]

    def _use(self, calls: list[Callable[[], object]]) -> None:
        self._calls = calls
        for call in calls:  # the first call of each makes what the next ones use
            call()

    def set_threads(self, threads: int) -> None:
        kernels.set_threads(threads)

    def call(self, i: int) -> object:
        return self._calls[i]()


class Ours(FromFile):
    """The public product; on huge pages, with copies of the tensors' bytes."""

    def __init__(self, name: str, shape: Shape, size: int) -> None:
        coding, self.mode, dtype = OURS[name]
        super().__init__(coding, shape, size)
        x = np.random.default_rng(1).standard_normal(shape[1])
        self.x: Any = x.astype(np.float32 if dtype == "float32" else ml_dtypes.bfloat16)
        self._use([lambda t=t: t.matvec(self.x, self.mode) for t in self.tensors])

    def to_huge(self) -> None:
        stride = -(-self.nbytes // PAGE) * PAGE
        area = machine.huge(stride * self.count)
        area.reshape(self.count, stride)[:, : self.nbytes] = self.extent
        batch, kernel, checked = self.x.reshape(1, -1), kernels.active(), self.tensors[0].checked
        products = [
            kernels.Product(self.scheme, self.shape, (), checked, area[i * stride : i * stride + self.nbytes])
            for i in range(self.count)
        ]
        self._use([lambda p=p: p.matvec(batch, self.mode, kernel) for p in products])
        self.areas, self.pages, self.tensors = [area], "huge", []
        self.model.close()
