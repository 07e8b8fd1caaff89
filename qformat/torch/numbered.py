"""Layers by number: a custom op takes tensors and numbers only, so compiled graphs name their layers so."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch.autograd import forward_ad

# How many modes watch every operation, and whether a transform of `torch.func` is at work.
_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_transforms: Callable[[], bool] = torch._C._are_functorch_transforms_active

# A layer that is gone is gone from here as well.
_layers: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = count()


def recording() -> bool:
    """Whether a graph is being made, or something else watches every operation (fake tensors, `make_fx`): it must see
    the layer's custom op instead of what that does to memory."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or _modes() > 0


def differentiating() -> bool:
    """Whether tensors may carry what only torch's own operations hand on: tangents, or the levels of `torch.func`."""
    return forward_ad._current_level >= 0 or _transforms()


def number(layer: Any) -> int:
    """A number for a layer, which no other one has had."""
    found = next(_numbers)
    _layers[found] = layer
    return found


def layer(number: int) -> Any:
    """The layer with a number, which is alive."""
    return _layers[number]
