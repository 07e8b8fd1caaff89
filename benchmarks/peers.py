"""The peers in Python: torch, bitsandbytes, onnxruntime, aqlm; each is imported when it is made."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import ggml
import machine
import numpy as np
from machine import Bytes
from subjects import OURS, PAGE, OnHeap, Ours, Shape, Subject, copies

# Arrays of one copy to the product of some x with it.
Bind = Callable[..., Callable[[], object]]


class _Torch(OnHeap):
    """Whatever torch's threads compute: `call` for each copy, which are tensors."""

    def __init__(self, shape: Shape, size: int) -> None:
        import torch

        torch.set_grad_enabled(False)
        torch.manual_seed(0)
        parts, bind = self.make(shape)
        self.nbytes = sum(part.nbytes for part in parts)
        self.count = copies(self.nbytes, size)
        weights = [[part.clone() for part in parts] for _ in range(self.count)]
        self.areas = machine.joined([(p.data_ptr(), p.nbytes) for w in weights for p in w if p.nbytes >= PAGE])
        self._calls = [bind(*w) for w in weights]

    @abstractmethod
    def make(self, shape: Shape) -> tuple[list[Any], Bind]:
        """The tensors that store one matrix, and what makes a product of some x out of them."""

    def set_threads(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def call(self, i: int) -> object:
        return self._calls[i]()


class Dense(_Torch):
    """`nn.functional.linear` in bfloat16."""

    def make(self, shape: Shape) -> tuple[list[Any], Bind]:
        import torch

        x = torch.randn(1, shape[1], dtype=torch.bfloat16)
        weight = 0.02 * torch.randn(shape, dtype=torch.bfloat16)
        return [weight], lambda w: partial(torch.nn.functional.linear, x, w)


class Int4Pack(_Torch):
    """torch's weight-only 4 bits with bfloat16 activations, groups of 128."""

    def make(self, shape: Shape) -> tuple[list[Any], Bind]:
        import torch

        (rows, columns), group = shape, 128
        x = torch.randn(1, columns, dtype=torch.bfloat16)
        codes = torch.randint(0, 16, shape, dtype=torch.int32)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        numbers = torch.full((columns // group, rows, 2), 0.01, dtype=torch.bfloat16)
        product = torch.ops.aten._weight_int4pack_mm_for_cpu
        return [packed, numbers], lambda w, n: partial(product, x, w, group, n)


class BitsAndBytes(_Torch):
    """NF4 in bitsandbytes' own packing for AVX-512 with bfloat16, which its `Linear4bit` makes at the first call.

    The kernel is the one in its library. It prefers one that the package `kernels` would load from a hub at run time;
    that package is no dependency of it.
    """

    def make(self, shape: Shape) -> tuple[list[Any], Bind]:
        import bitsandbytes
        import torch
        from bitsandbytes.nn import Linear4bit, Params4bit

        x = torch.randn(1, shape[1], dtype=torch.bfloat16)
        layer: Any = Linear4bit(
            shape[1], shape[0], bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", device="meta"
        )
        weight = 0.02 * torch.randn(shape)
        layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=False)
        layer = layer.to("cpu").eval()
        y, expected = layer(x).float(), x.float() @ weight.T
        error = float((y - expected).norm() / expected.norm())
        how = layer.weight.quant_state
        if not getattr(how, "packing_format_for_cpu", False) or not error < 0.15:
            raise RuntimeError(f"not packed for the CPU, or wrong: relative error {error:.3f}")

        def bind(codes: Any, absmax: Any) -> Callable[[], object]:
            state = copy.copy(how)
            state.absmax = absmax
            return partial(bitsandbytes.matmul_4bit, x, codes, quant_state=state)

        return [layer.weight.data, how.absmax], bind


class Aqlm(_Torch):
    """The `aqlm` package's kernel for a CPU: numba, or decoding and a product where it has none for the width."""

    def __init__(self, books: int, bits: int, shape: Shape, size: int) -> None:
        self.books, self.bits = books, bits
        super().__init__(shape, size)
        self.nbytes += 2 * books * 2**bits * 8 + 2 * shape[0]  # books and scales, as its files have them

    def make(self, shape: Shape) -> tuple[list[Any], Bind]:
        import torch
        from aqlm.inference_kernels.kernel_selector import get_forward_pass_kernel

        (rows, columns), entries = shape, 2**self.bits
        x = torch.randn(1, columns)
        books = 0.02 * torch.randn(self.books, entries, 1, 8)
        scales = torch.rand(rows, 1, 1, 1) + 0.5
        dtype = torch.int8 if self.bits == 8 else torch.int16
        codes = torch.randint(-entries // 2, entries // 2, (rows, columns // 8, self.books), dtype=dtype)
        kernel = get_forward_pass_kernel(books, False)
        if "numba" in kernel.__name__:
            codes = codes.permute(1, 0, 2).contiguous()
        kernel(x, codes, books, scales, None)  # compiles
        return [codes], lambda w: partial(kernel, x, w, books, scales, None)

    def set_threads(self, threads: int) -> None:
        import numba

        super().set_threads(threads)
        numba.set_num_threads(threads)


class MatMulNBits(Subject):
    """onnxruntime's `MatMulNBits` with 8-bit activations (accuracy level 4), all copies in one graph.

    A session has its threads for life, so each count of threads has one, with packed weights of its own.
    """

    def __init__(self, bits: int, group: int, shape: Shape, size: int) -> None:
        self._bits, self._group, self._shape = bits, group, shape
        weights = shape[0] * shape[1]
        self.nbytes = weights * bits // 8 + weights // group * 4
        self.each = self.count = copies(self.nbytes, size)
        self._x = {"x": np.random.default_rng(1).standard_normal((1, shape[1])).astype(np.float32)}
        self._made: dict[int, tuple[Any, list[Bytes]]] = {}
        self.set_threads(2)

    def set_threads(self, threads: int) -> None:
        if threads not in self._made:
            self._made[threads] = self._make(threads)
        self._session, self.areas = self._made[threads]

    def _make(self, threads: int) -> tuple[Any, list[Bytes]]:
        (rows, columns), blocks = self._shape, self._shape[1] // self._group
        rng = np.random.default_rng(0)
        codes = rng.integers(0, 256, (rows, blocks, self._group * self._bits // 8), np.uint8)
        scales = rng.random((rows, blocks), np.float32) / 1000
        attributes = {"K": columns, "N": rows, "bits": self._bits, "block_size": self._group, "accuracy_level": 4}
        before = machine.private()
        made = session(codes, scales, self.count, attributes, threads)
        made.run(None, self._x)
        areas = machine.new_since(before)
        found, stored = sum(area.nbytes for area in areas), self.nbytes * self.count
        if not 0.9 * stored <= found <= 1.5 * stored:
            raise RuntimeError(f"{found >> 20} MiB of weights found, not {stored >> 20}")
        return made, areas

    def call(self, i: int) -> object:
        return self._session.run(None, self._x)

    def to_huge(self) -> None:
        for _, areas in self._made.values():
            machine.collapse(areas)
        self.pages = "huge"


def session(codes: np.ndarray, scales: np.ndarray, count: int, attributes: dict[str, int], threads: int) -> Any:
    """A session with one node for each copy. What is equal would be packed once, so every copy has codes of its own."""
    import onnxruntime
    from onnx import TensorProto, helper

    def outside(name: str, kind: int, array: np.ndarray) -> Any:
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="memory")
        return tensor

    values = {}
    weights, nodes, results = [], [], []
    for i in range(count):
        own = (np.roll(codes, i, axis=0), np.roll(scales, i, axis=0))
        for name, kind, array in zip((f"q{i}", f"s{i}"), (TensorProto.UINT8, TensorProto.FLOAT), own, strict=True):
            weights.append(outside(name, kind, array))
            values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        nodes.append(
            helper.make_node("MatMulNBits", ["x", f"q{i}", f"s{i}"], [f"y{i}"], domain="com.microsoft", **attributes)
        )
        results.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [1, attributes["N"]]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, attributes["K"]])
    graph = helper.make_graph(nodes, "products", [x], results, weights)
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    # equal nodes stay apart
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_external_initializers(list(values), list(values.values()))
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


# name of a subject: the process that times it, and how it is made
SUBJECTS: dict[str, tuple[str, Callable[[Shape, int], Subject]]] = {
    **{name: ("ours", partial(Ours, name)) for name in OURS},
    **{f"llama.cpp {kind}": ("llama.cpp", partial(ggml.InPlace, kind)) for kind in ggml.TOLERANCE},
    **{f"llama.cpp {kind} repacked": ("llama.cpp", partial(ggml.Repacked, kind)) for kind in ("q4_0", "q4_K", "q2_K")},
    **{f"onnxruntime {bits} bits": ("onnxruntime", partial(MatMulNBits, bits, 128)) for bits in (8, 4, 2)},
    "torch bf16": ("torch", Dense),
    "torch int4pack": ("torch", Int4Pack),
    "bitsandbytes nf4": ("bitsandbytes", BitsAndBytes),
    "aqlm 2x8": ("aqlm", partial(Aqlm, 2, 8)),
    "aqlm 1x16": ("aqlm", partial(Aqlm, 1, 16)),
}
