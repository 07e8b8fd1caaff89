"""Layers by number: a custom op takes tensors and numbers only, so compiled graphs name their layers so."""

from __future__ import annotations

from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch

# A layer that is gone is gone from here as well.
_layers: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = count()


def recording() -> bool:
    """Whether a graph is being made, which must see the layer's custom op instead of what it does."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def number(layer: Any) -> int:
    """A number for a layer, which no other one has had."""
    found = next(_numbers)
    _layers[found] = layer
    return found


def layer(number: int) -> Any:
    """The layer with a number, which is alive."""
    return _layers[number]
