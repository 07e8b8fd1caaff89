"""What is timed: a weight matrix in many copies, with the pages that hold them, and the product that reads them."""

from __future__ import annotations

import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import machine
import ml_dtypes
import numpy as np
from machine import Bytes

import qformat
from qformat import container, kernels, linear, schemes
from qformat.codings.grammar import Additive, Affine, Block, Coding, Comb, Dense, Flat, Lattice, Lookup, Map, Trellis
from qformat.residency import Residency
from qformat.schemes import Scheme

Shape = tuple[int, int]

PAGE = 4096
F16 = Dense(dtype="float16")


class Subject(ABC):
    """Copies of one matrix on pages of their own, so that a pass over them reads memory and not a cache.

    `nbytes` is what one copy stores, scales included; `areas` is the memory that holds all of them; `each` is how many
    copies one `call` multiplies with (more than one where a peer runs a whole graph).
    """

    nbytes: int
    count: int
    each: int = 1
    pages: str = "heap"
    areas: list[Bytes]

    @abstractmethod
    def set_threads(self, threads: int) -> None: ...

    def set_batch(self, rows: int) -> None:
        """Rows of x; what has no choice has one."""
        if rows != 1:
            raise ValueError(f"{type(self).__name__} multiplies one row, not {rows}")

    @abstractmethod
    def call(self, i: int) -> object: ...

    def plain(self, threads: int, other_way: bool) -> float | None:
        """Bytes per second that the memory gives for what a call does, in one of two ways; None if it is no limit."""
        return machine.plain_read(self.areas, threads, prefetch=other_way)

    def to_huge(self) -> None:
        """Move the copies to huge pages; what is timed on one kind of pages only cannot."""
        raise ValueError(f"{type(self).__name__} stays on its pages")


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


# What is decoded before it is multiplied: QuIP#'s lattice, QTIP's functions and EXL3's, each in its order; groups of
# bitsandbytes, HQQ, GPTQ with act-order and block fp8.
STRIPS: dict[str, Coding] = {
    "lattice e8p": Lattice(lattices=("e8p",)),
    "trellis 4 1mad": Trellis(bits=4, function="1mad", order="qtip"),
    "trellis 4 3inst": Trellis(bits=4, function="3inst", order="qtip"),
    "trellis 4 mul1": Trellis(bits=4, function="mul1", order="exl3"),
    "nf4 flat 64": Lookup(bits=4, table="nf4", group=Flat(size=64), scales=Dense(dtype="float32")),
    "affine 4 comb 64": Affine(bits=4, group=Comb(size=64), scales=F16, zeros=F16),
    "affine 4 map": Affine(bits=4, group=Map(count=32), scales=F16, zeros=F16),
    "e4m3 128x128": Lookup(bits=8, table="e4m3", group=Block(rows=128, columns=128), scales=Dense(dtype="float32")),
}

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
    **{name: (coding, "exact", "float32") for name, coding in STRIPS.items()},
}


def one(coding: Coding, shape: Shape) -> tuple[Scheme, Bytes]:
    """A scheme and the bytes of one tensor of random codes."""
    rng = np.random.default_rng(0)
    scheme = Scheme(coding=coding)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, role in linear.roles(scheme, shape, ()).items():
        if role.bits is not None:
            arrays[name] = rng.integers(0, 2**role.bits, role.shape).astype(role.dtype)
        elif name == "groups":
            assert isinstance(coding, Affine) and isinstance(coding.group, Map)
            arrays[name] = rng.permutation(shape[1]).astype(role.dtype) % coding.group.count
        else:
            arrays[name] = (0.02 * rng.random(role.shape) + 0.01).astype(role.dtype)
    return scheme, linear.pack(scheme, shape, arrays)


def write(path: Path, scheme: Scheme, shape: Shape, extent: Bytes, count: int) -> None:
    """A file of `count` tensors of the same content on pages of their own."""
    how: Any = schemes.dump(scheme)
    with container.create(path) as writer:
        for i in range(count):
            writer.tensor(
                f"t{i:05}", scheme=how, dtype="bfloat16", shape=shape, length=extent.nbytes, data=[memoryview(extent)]
            )
        writer.finish({})


class FromFile(Subject):
    """Tensors of a file."""

    _calls: list[Callable[[], object]]

    def __init__(self, coding: Coding, shape: Shape, size: int) -> None:
        scheme, extent = one(coding, shape)
        self.nbytes, self.count = extent.nbytes, copies(extent.nbytes, size)
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "bench.qf"
        write(self._path, scheme, shape, extent, self.count)
        machine.rewrite(self._path, machine.SMALL_BLOCK)
        self._open("mmap")

    def _open(self, residency: Residency) -> None:
        self.model = qformat.open(self._path, residency=residency)
        self.tensors = [self.model[name] for name in self.model]
        extents = [tensor.extent() for tensor in self.tensors]
        self.areas = machine.joined([(extent.ctypes.data, extent.nbytes) for extent in extents])
        self.pages = "file" if residency == "mmap" else "huge"

    def _use(self, calls: list[Callable[[], object]]) -> None:
        self._calls = calls
        for call in calls:  # the first call of each makes what the next ones use
            call()

    def set_threads(self, threads: int) -> None:
        kernels.set_threads(threads)

    def call(self, i: int) -> object:
        return self._calls[i]()


class Ours(FromFile):
    """The public product, `Tensor.matvec`."""

    def __init__(self, name: str, shape: Shape, size: int) -> None:
        coding, self.mode, dtype = OURS[name]
        x = np.random.default_rng(1).standard_normal(shape[1])
        self.x: Any = x.astype(np.float32 if dtype == "float32" else ml_dtypes.bfloat16)
        super().__init__(coding, shape, size)
        self._use([partial(tensor.matvec, self.x, self.mode) for tensor in self.tensors])

    def to_huge(self) -> None:
        self._calls, self.areas = [], []
        self.model.close()
        self._open("hugepages")
        self._use([partial(tensor.matvec, self.x, self.mode) for tensor in self.tensors])
