"""llama.cpp's CPU kernels, through the ggml libraries that llama-cpp-python installs.

One graph multiplies with every copy in turn, so its calls cost no Python. Types that are not repacked read a file
mapping in place, as `llama.cpp` does with a GGUF file; repacked ones lie where ggml allocates them.
"""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import tempfile
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path

import machine
import numpy as np
from machine import Bytes
from subjects import PAGE, OnHeap, Shape, Subject, copies

# Largest relative error of a product with Gaussian weights that still counts as the right answer.
TOLERANCE = {"q8_0": 0.02, "q4_0": 0.15, "q4_K": 0.15, "q3_K": 0.3, "q2_K": 0.5, "iq2_xxs": 0.7}

# Rows that are quantized; the matrix repeats them.
ROWS = 128


class _Init(ctypes.Structure):
    _fields_ = (("size", c_size_t), ("buffer", c_void_p), ("no_alloc", c_bool))


_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "ggml_init": (c_void_p, (_Init,)),
    "ggml_tensor_overhead": (c_size_t, ()),
    "ggml_graph_overhead_custom": (c_size_t, (c_size_t, c_bool)),
    "ggml_new_tensor_2d": (c_void_p, (c_void_p, c_int, c_int64, c_int64)),
    "ggml_mul_mat": (c_void_p, (c_void_p, c_void_p, c_void_p)),
    "ggml_new_graph_custom": (c_void_p, (c_void_p, c_size_t, c_bool)),
    "ggml_build_forward_expand": (None, (c_void_p, c_void_p)),
    "ggml_row_size": (c_size_t, (c_int, c_int64)),
    "ggml_type_name": (c_char_p, (c_int,)),
    "ggml_quantize_chunk": (
        c_size_t,
        (c_int, POINTER(c_float), c_void_p, c_int64, c_int64, c_int64, POINTER(c_float)),
    ),
    "ggml_get_data": (c_void_p, (c_void_p,)),
    "ggml_backend_cpu_init": (c_void_p, ()),
    "ggml_backend_cpu_set_n_threads": (None, (c_void_p, c_int)),
    "ggml_backend_cpu_buffer_from_ptr": (c_void_p, (c_void_p, c_size_t)),
    "ggml_backend_tensor_alloc": (c_int, (c_void_p, c_void_p, c_void_p)),
    "ggml_backend_alloc_ctx_tensors": (c_void_p, (c_void_p, c_void_p)),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, (c_void_p, c_void_p)),
    "ggml_backend_tensor_set": (None, (c_void_p, c_void_p, c_size_t, c_size_t)),
    "ggml_backend_tensor_get": (None, (c_void_p, c_void_p, c_size_t, c_size_t)),
    "ggml_backend_graph_compute": (c_int, (c_void_p, c_void_p)),
    "ggml_backend_supports_op": (c_bool, (c_void_p, c_void_p)),
    "ggml_backend_get_device": (c_void_p, (c_void_p,)),
    "ggml_backend_dev_backend_reg": (c_void_p, (c_void_p,)),
    "ggml_backend_reg_get_proc_address": (c_void_p, (c_void_p, c_char_p)),
    "ggml_backend_buft_name": (c_char_p, (c_void_p,)),
}


class Ggml:
    """The functions, a backend, and the buffer type that repacks."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.origin is None:
            raise ImportError("llama-cpp-python is not installed")
        folder = Path(spec.origin).parent / "lib"
        self._libraries = [
            ctypes.CDLL(str(next(folder.glob(f"lib{name}.so*"))), mode=ctypes.RTLD_GLOBAL)
            for name in ("ggml-base", "ggml-cpu")
        ]
        self.backend = self("ggml_backend_cpu_init")

    def __call__(self, name: str, *arguments: object) -> object:
        library = next(each for each in self._libraries if hasattr(each, name))
        function = getattr(library, name)
        function.restype, function.argtypes = _SIGNATURES[name]
        return function(*arguments)

    def type(self, name: str) -> int:
        return next(i for i in range(64) if self("ggml_type_name", i) == name.encode())

    def context(self, tensors: int, graph: int = 0) -> object:
        size = self("ggml_tensor_overhead") * (tensors + 8)
        if graph:
            size += self("ggml_graph_overhead_custom", graph, False)
        return self("ggml_init", _Init(size, None, True))

    def repacking(self) -> object:
        """The buffer type that changes the layout of what is set."""
        registry = self("ggml_backend_dev_backend_reg", self("ggml_backend_get_device", self.backend))
        address = self("ggml_backend_reg_get_proc_address", registry, b"ggml_backend_dev_get_extra_bufts")
        listed = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(self("ggml_backend_get_device", self.backend))
        for i in range(16):
            if not listed[i]:
                break
            if b"REPACK" in self("ggml_backend_buft_name", listed[i]):
                return listed[i]
        raise RuntimeError("this build of ggml does not repack")


@cache
def library() -> Ggml:
    return Ggml()


class Quantized:
    """One matrix of Gaussian weights in a ggml type: its bytes, and what its product with x should be."""

    def __init__(self, kind: str, shape: Shape) -> None:
        g, (rows, inputs) = library(), shape
        rng = np.random.default_rng(3)
        self.kind, self.number, self.shape = kind, g.type(kind), shape
        self.x = rng.standard_normal(inputs, np.float32)
        source = 0.02 * rng.standard_normal((ROWS, inputs), np.float32)
        few = np.empty((ROWS, g("ggml_row_size", self.number, inputs)), np.uint8)
        ones = np.ones(inputs, np.float32)
        pointers = (array.ctypes.data_as(POINTER(c_float)) for array in (source, ones))
        g("ggml_quantize_chunk", self.number, next(pointers), few.ctypes.data, 0, ROWS, inputs, next(pointers))
        self.bytes: Bytes = np.tile(few, (rows // ROWS, 1)).reshape(-1)
        self.expected = np.tile(source @ self.x, rows // ROWS)

    def check(self, y: np.ndarray) -> None:
        error = float(np.linalg.norm(y - self.expected) / np.linalg.norm(self.expected))
        if not error < TOLERANCE[self.kind]:
            raise RuntimeError(f"{self.kind}: relative error {error:.3f}")


class _Graph:
    """Products of x with every weight, in one graph."""

    def __init__(self, weights: list[object], matrix: Quantized) -> None:
        g, count = library(), len(weights)
        context = g.context(count + 1, count + 16)
        x = g("ggml_new_tensor_2d", context, 0, matrix.shape[1], 1)
        self.graph = g("ggml_new_graph_custom", context, count + 16, False)
        self.out = [g("ggml_mul_mat", context, weight, x) for weight in weights]
        for y in self.out:
            g("ggml_build_forward_expand", self.graph, y)
        if not g("ggml_backend_supports_op", g.backend, self.out[0]):
            raise RuntimeError(f"{matrix.kind} is not repacked on this processor")
        g("ggml_backend_alloc_ctx_tensors", context, g.backend)
        g("ggml_backend_tensor_set", x, matrix.x.ctypes.data, 0, matrix.x.nbytes)
        self.compute()
        y = np.empty(matrix.shape[0], np.float32)
        for each in (self.out[0], self.out[-1]):
            g("ggml_backend_tensor_get", each, y.ctypes.data, 0, y.nbytes)
            matrix.check(y)

    def compute(self) -> None:
        library()("ggml_backend_graph_compute", library().backend, self.graph)


class _Llama(Subject):
    graph: _Graph

    def set_threads(self, threads: int) -> None:
        library()("ggml_backend_cpu_set_n_threads", library().backend, threads)

    def call(self, i: int) -> object:
        return self.graph.compute()


class InPlace(_Llama):
    """A type as the file has it, from a mapping; on huge pages, a copy of the mapping."""

    pages = "file"

    def __init__(self, kind: str, shape: Shape, size: int) -> None:
        self.matrix = Quantized(kind, shape)
        self.nbytes = self.matrix.bytes.nbytes
        self.each = self.count = copies(self.nbytes, size)
        self.stride = -(-self.nbytes // PAGE) * PAGE
        with tempfile.TemporaryDirectory() as folder:
            path, padded = Path(folder) / "bench", self.matrix.bytes.tobytes() + bytes(self.stride - self.nbytes)
            with path.open("wb") as file:
                for _ in range(self.count):
                    file.write(padded)
            machine.rewrite(path, machine.SMALL_BLOCK)
            with path.open("rb") as file:
                self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._use(np.frombuffer(self._mapping, np.uint8))

    def _use(self, area: Bytes) -> None:
        g = library()
        self.areas = [area]
        buffer = g("ggml_backend_cpu_buffer_from_ptr", area.ctypes.data, area.nbytes)
        context = g.context(self.count)
        weights = [
            g("ggml_new_tensor_2d", context, self.matrix.number, *self.matrix.shape[::-1]) for _ in range(self.count)
        ]
        for i, weight in enumerate(weights):
            g("ggml_backend_tensor_alloc", buffer, weight, area.ctypes.data + i * self.stride)
        self.graph = _Graph(weights, self.matrix)

    def to_huge(self) -> None:
        area = machine.huge(self.stride * self.count)
        area[:] = self.areas[0]
        self._use(area)
        self.pages = "huge"


class Repacked(_Llama, OnHeap):
    """A type in the interleaved layout that ggml makes of it at load."""

    def __init__(self, kind: str, shape: Shape, size: int) -> None:
        g, matrix = library(), Quantized(kind, shape)
        self.nbytes = matrix.bytes.nbytes
        self.each = self.count = copies(self.nbytes, size)
        context = g.context(self.count)
        weights = [g("ggml_new_tensor_2d", context, matrix.number, *shape[::-1]) for _ in range(self.count)]
        g("ggml_backend_alloc_ctx_tensors_from_buft", context, g.repacking())
        for weight in weights:
            g("ggml_backend_tensor_set", weight, matrix.bytes.ctypes.data, 0, self.nbytes)
        self.areas = machine.joined([(g("ggml_get_data", weight), self.nbytes) for weight in weights])
        self.graph = _Graph(weights, matrix)
