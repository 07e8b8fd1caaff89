"""Products that layers of one input make together: query, key and value of an attention, gate and up of an MLP.

Who they are is seen, not declared: a layer that is asked about the very tensor that another was asked about just before
becomes a sibling of that one, which from then on makes its product along with its own. Sharing changes nothing but
time: a result is what its layer alone would give, bit for bit, is handed out once, and only for the same bytes of x, in
the same mode, by the same kernel, to the same weight. What nobody fetches lives no longer than x, and its layer is a
sibling no more.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch

from qformat import kernels

if TYPE_CHECKING:
    from qformat.store import Model
    from qformat.torch.linear import QLinear

# What the kernels multiply with, and what they call it.
KERNEL_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}

# How often what a layer made along may be left lying until it makes its own product only.
MISSES = 8


class Siblings:
    """The layers whose products one layer makes along with its own. They are not kept alive."""

    def __init__(self) -> None:
        self.layers: tuple[ref[QLinear], ...] = ()
        self.misses = 0

    def meet(self, layer: QLinear) -> None:
        """`layer` was asked about the same x."""
        if self.misses < MISSES and not any(known() is layer for known in self.layers):
            self.layers += (ref(layer),)

    def part(self, left: dict[Any, torch.Tensor]) -> None:
        """Nobody fetched these results."""
        self.misses += 1
        layers = [(known, known()) for known in self.layers]
        self.layers = tuple(
            known for known, layer in layers if layer is not None and layer.tensor.product.panels not in left
        )


class _Made:
    """What a layer made along for its siblings, of the bytes that x had."""

    def __init__(self, layer: QLinear, stored: bytes, results: dict[Any, torch.Tensor]) -> None:
        self.siblings, self.stored, self.results = layer.siblings, stored, results
        self.model: Model | None = layer.tensor._model

    def give_up(self, _: Any = None) -> None:
        """No more can be asked for: x is gone, or another one has come."""
        if self.results:
            self.siblings.part(self.results)
            self.results.clear()
        self.stored, self.model = b"", None


class _Last(threading.local):
    """Whom this thread asked last, about which x, and what was made along."""

    def __init__(self) -> None:
        self.siblings = Siblings()
        self.x: Callable[[], torch.Tensor | None] = lambda: None
        self.key: Any = None
        self.made: _Made | None = None


_last = _Last()


def product(layer: QLinear, x: torch.Tensor, kernel: str) -> torch.Tensor:
    """x Wᵀ of a layer whose weight is in panels, in the dtype of x: found made, or made together with its siblings'.

    Args:
        x: (…, in_features), a few rows, contiguous on the CPU.
        kernel: any but the reference.

    Raises:
        ChangedError: a file is no longer what was opened.
    """
    last, own = _last, layer.siblings
    key = (x.shape, x.dtype, layer.mode, kernel, torch.is_inference_mode_enabled())
    made = last.made
    if last.x() is x and last.key == key and (made is None or made.stored == _bytes(x)):
        if made is not None and (y := made.results.pop(layer.tensor.product.panels, None)) is not None:
            if not made.results:
                last.made = None
            if layer.tensor._model is not made.model:  # whose file was looked at when this was made
                layer.tensor.guard()
            return y
        if last.siblings is not own:
            last.siblings.meet(layer)
            return multiply([layer], x, kernel)[0]
    if made is not None:
        made.give_up()
    last.siblings, last.key, last.x, last.made = own, key, ref(x), None
    if not own.layers:
        return multiply([layer], x, kernel)[0]
    others = [other for known in own.layers if (other := known()) is not None and _fits(other, layer)]
    stored = _bytes(x)
    y, *more = multiply([layer, *others], x, kernel)
    if others:
        results = {other.tensor.product.panels: its for other, its in zip(others, more, strict=True)}
        last.made = _Made(layer, stored, results)
        last.x = ref(x, last.made.give_up)
    return y


def _fits(other: QLinear, layer: QLinear) -> bool:
    """Whether two layers can be asked about the same x: neither their weights nor their modes are fixed for ever."""
    its, weight = other.tensor.product, layer.tensor.product
    return its.panels is not None and its.shape[1] == weight.shape[1] and other.mode == layer.mode


def multiply(layers: Sequence[QLinear], x: torch.Tensor, kernel: str) -> list[torch.Tensor]:
    """x Wᵀ of each of some layers with weights in panels and equal modes, in the dtype of x.

    Only the first one's file is looked at afterwards.

    Args:
        x: (…, in_features), contiguous on the CPU, not empty.

    Raises:
        ChangedError: a file is no longer what was opened.
    """
    *leading, inputs = x.shape
    ys, panels = [], []
    for layer in layers:
        weight = layer.tensor.product
        if weight.panels is None or weight.shape[1] != inputs:  # addresses have no shape: nobody looks after this
            raise ValueError(f"x has shape {tuple(x.shape)}, the weight {weight.shape}")
        panels.append(weight.panels)
        ys.append(x.new_empty((*leading, weight.shape[0])))
    places = [y.data_ptr() for y in ys]
    kernels.matvecs(kernel, panels, x.data_ptr(), x.numel() // inputs, KERNEL_DTYPES[x.dtype], layers[0].mode, places)
    layers[0].tensor.guard()
    return ys


def _bytes(x: torch.Tensor) -> bytes:
    """A copy of the memory of x, which is contiguous."""
    return ctypes.string_at(x.data_ptr(), x.nbytes)
