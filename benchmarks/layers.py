"""Linear layers of torch over many rows of x: ours, and the dense one."""

from __future__ import annotations

from functools import partial
from typing import Any

from subjects import NF4, FromFile, Shape, Subject, affine, copies

from qformat import kernels

CODINGS = {"affine 4 g128": affine(4, 128), "nf4 g64": NF4}


class _Layers(Subject):
    """`layers` called in turn, each with an x of bfloat16. Arithmetic is the limit for most batches, not memory."""

    layers: list[Any]

    def set_threads(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        kernels.set_threads(threads)

    def set_batch(self, rows: int) -> None:
        import torch

        # one x for each: layers that are asked about the same one would be multiplied together
        self.x = torch.randn(self.count, rows, self.layers[0].in_features, dtype=torch.bfloat16).unbind()

    def call(self, i: int) -> object:
        return self.layers[i](self.x[i])

    def plain(self, threads: int, other_way: bool) -> None:
        return None


class Quantized(_Layers, FromFile):
    """`QLinear` over the tensors of a file."""

    def __init__(self, name: str, shape: Shape, size: int) -> None:
        import torch

        from qformat.torch import QLinear

        torch.set_grad_enabled(False)
        super().__init__(CODINGS[name], shape, size)
        self.layers = [QLinear(tensor) for tensor in self.tensors]
        self.set_batch(1)
        for i in range(self.count):
            self.call(i)


class Dense(_Layers):
    """`nn.Linear` in bfloat16."""

    def __init__(self, shape: Shape, size: int) -> None:
        import torch

        torch.set_grad_enabled(False)
        self.nbytes = 2 * shape[0] * shape[1]
        self.count = copies(self.nbytes, 4 * size)  # the weights are as many as ours
        self.layers = [torch.nn.Linear(shape[1], shape[0], bias=False, dtype=torch.bfloat16) for _ in range(self.count)]
        self.set_batch(1)


LAYERS = {
    **{f"QLinear {name}": ("ours", partial(Quantized, name)) for name in CODINGS},
    "nn.Linear bf16": ("torch", Dense),
}
