"""Experts of a mixture whose weights stay in the mapped file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from qformat.linear import row_local
from qformat.member import Member
from qformat.tensor import Tensor
from qformat.torch import numbered
from qformat.torch.arrays import dense
from qformat.torch.linear import Mode, QLinear


class Pieces(NamedTuple):
    """What a file has of a parameter of experts: for each expert its matrices, one below the other.

    `turned`: their shapes in the source are (in, out) where the module's parameter has (out, in), or the other way.
    """

    experts: list[list[Tensor]]
    turned: bool = False


# The name and shape of a parameter of experts to its pieces; None where the file has it otherwise.
FindPieces = Callable[[str, tuple[int, ...]], Pieces | None]


class QExperts(nn.Module):
    """Σ w · down(gate(up(x))) over the experts that each row of x is routed to; no other expert is read.

    Stands in for transformers' modules whose experts' weights are two parameters of three dimensions
    (`use_experts_implementation`). Each matrix of an expert is a `QLinear`, or a view of the mapping if it is dense.

    Args:
        module: what it stands in for, without these two parameters; its gating, its biases and its norm are used.
        up: (hidden_size → width of the gate's input) for each expert.
        down: (width of the gate's output → hidden_size) for each expert.
    """

    def __init__(self, module: nn.Module, up: Sequence[nn.Module], down: Sequence[nn.Module]) -> None:
        super().__init__()
        self.module, self.up, self.down = module, nn.ModuleList(up), nn.ModuleList(down)
        self.num_experts = len(up)
        self._number = numbered.number(self)

    def forward(self, hidden_states: torch.Tensor, top_k_index: Any, top_k_weights: Any) -> torch.Tensor:
        """hidden_states (tokens, hidden_size), top_k_index and top_k_weights (tokens, k) to (tokens, hidden_size)."""
        # the op has no gradient: where one is asked for, graphs break at what depends on the routing
        differentiable = hidden_states.requires_grad or top_k_weights.requires_grad
        if numbered.recording() and not (differentiable and torch.is_grad_enabled()):
            y: torch.Tensor = torch.ops.qformat.experts(hidden_states, top_k_index, top_k_weights, self._number)
            return y
        return self.mix(hidden_states, top_k_index, top_k_weights)

    def mix(self, x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Each expert once, with all of its rows; the sums over experts are float32 at least."""
        if len(x) == 1:
            # a tensor of its own for each expert: else each would become a sibling of the ones routed to with it
            found = zip(index[0].tolist(), weights[0].unbind(), strict=True)
            parts = [self._expert(number, x.view_as(x)) * weight for number, weight in found if number < len(self.up)]
            return torch.stack(parts).sum(0, dtype=_wide(x)).to(x.dtype) if parts else torch.zeros_like(x)
        out = torch.zeros_like(x, dtype=_wide(x))
        chosen, order = index.reshape(-1).sort(stable=True)
        numbers, counts = torch.unique_consecutive(chosen, return_counts=True)
        weights = weights.reshape(-1, 1)
        for number, places in zip(numbers.tolist(), order.split(counts.tolist()), strict=True):
            if number < len(self.up):  # beyond is what marks a row as one that nobody takes
                rows = places // index.shape[-1]
                y = self._expert(number, x[rows]) * weights[places]
                out = out.index_add(0, rows, y.to(out.dtype))
        return out.to(x.dtype)

    def _expert(self, number: int, x: torch.Tensor) -> torch.Tensor:
        module: Any = self.module
        y = self._biased(self.up[number](x), "gate_up_proj_bias" if module.has_gate else "up_proj_bias", number)
        y = module._apply_gate(y) if module.has_gate else module.act_fn(y)
        y = self._biased(self.down[number](y), "down_proj_bias", number)
        return module.post_expert_norm(y) if module.has_post_expert_norm else y

    def _biased(self, y: torch.Tensor, name: str, number: int) -> torch.Tensor:
        return y + getattr(self.module, name)[number].to(y.dtype) if self.module.has_bias else y

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._number = numbered.number(self)  # a copy is a layer of its own


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


class QSortedExperts(QExperts):
    """Llama 4's: rows come already multiplied with their weights, as many for each expert, those of the first expert
    first. A row of zeros is one that was not routed there."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """hidden_states (experts · tokens, hidden_size) to the same shape."""
        own = torch.arange(self.num_experts, device=hidden_states.device)
        own = own.repeat_interleave(hidden_states.shape[0] // self.num_experts)
        index = torch.where(hidden_states.any(-1), own, self.num_experts)[:, None]
        return super().forward(hidden_states, index, torch.ones_like(index, dtype=hidden_states.dtype))

    def _expert(self, number: int, x: torch.Tensor) -> torch.Tensor:
        module: Any = self.module
        gate, up = self.up[number](x).chunk(2, dim=-1)
        y: torch.Tensor = self.down[number](up * module.act_fn(gate))
        return y


class Joined(nn.Module):
    """Outputs of several products with the same x, one after the other: a gate and an up projection."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features) to (..., sum of out_features)."""
        return torch.cat([part(x) for part in self.parts], dim=-1)


class Turned(nn.Module):
    """y = x M with M (in_features, out_features) coded along its outputs, so decoded whenever it is used."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor = tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features) to (..., out_features)."""
        values = dense(self.tensor, x.dtype).to(x.device)
        return x @ (values.mT if self.tensor.scheme.transposed else values)


class StandIn(NamedTuple):
    """Experts that await the rest of their module: where they belong, and what they replaced."""

    name: str
    module: nn.Module
    kind: type[QExperts]
    up: list[nn.Module]
    down: list[nn.Module]
    weights: dict[str, Pieces]

    def place(self, root: nn.Module) -> None:
        """Into the tree, for the module that has been filled."""
        above, _, own = self.name.rpartition(".")
        made = self.kind(self.module, self.up, self.down).train(self.module.training)
        setattr(root.get_submodule(above), own, made)


def stand_ins(root: nn.Module, find: FindPieces, dtype: torch.dtype | None, mode: Mode) -> Iterator[StandIn]:
    """Experts below `root` that can stay in the file; the parameters that this makes superfluous are deleted there."""
    for name, module in list(root.named_modules()):
        how = _kind(module) if name else None
        if how is None:
            continue
        found = {}
        for own in (how.first, "down_proj"):
            shape = tuple(getattr(module, own).shape)
            pieces = find(f"{name}.{own}", shape)
            if pieces is not None and _fit(pieces, shape, how.transposed):
                found[own] = pieces
        if len(found) < 2:
            continue
        up, down = (_matrices(pieces, how.transposed, dtype, mode) for pieces in found.values())
        for own in found:
            delattr(module, own)
        yield StandIn(name, module, how.kind, up, down, {f"{name}.{own}": pieces for own, pieces in found.items()})


class _Kind(NamedTuple):
    """What stands in for a module of experts, its first parameter's name, and whether its parameters are (in, out)."""

    kind: type[QExperts]
    first: str
    transposed: bool


def _kind(module: Any) -> _Kind | None:
    """How a module's experts compute, None if that is not known.

    Where transformers chooses among implementations of experts, any of them may serve, and so may this one; the
    decorator of such classes says how their weights lie.
    """
    known = type(module).forward
    if getattr(known, "__globals__", {}).get("__name__") == "transformers.integrations.moe":
        if not _is_understood() or module._is_expert_parallel:
            return None
        return _Kind(QExperts, "gate_up_proj" if module.has_gate else "up_proj", module.is_transposed)
    if known.__qualname__ == "Llama4TextExperts.forward" and known.__module__.startswith("transformers.models.llama4."):
        return _Kind(QSortedExperts, "gate_up_proj", True)
    return None


@cache
def _is_understood() -> bool:
    """Whether the decorator has the options that are known here, and no other."""
    from transformers.integrations.moe import use_experts_implementation

    known = {"experts_class", "experts_interface", "is_concatenated", "is_transposed", "has_bias", "has_gate"}
    return set(inspect.signature(use_experts_implementation).parameters) == known | {"has_post_expert_norm"}


def stacked(tensor: Tensor, turned: bool) -> Pieces | None:
    """The pieces of a parameter that the file has as one tensor; None for one that does as it is, or whose matrices
    cannot be told apart."""
    if tensor.coding == "dense" or len(tensor.shape) != 3 or not row_local(tensor.scheme):
        return None
    return Pieces([[Member(tensor, number)] for number in range(tensor.shape[0])], turned)


def _fit(pieces: Pieces, shape: tuple[int, ...], transposed: bool) -> bool:
    """Whether they are the matrices of a parameter of this shape."""
    number, outputs, inputs = (shape[0], shape[2], shape[1]) if transposed else shape
    turned = pieces.turned ^ transposed
    for parts in pieces.experts:
        shapes = [part.shape[::-1] if turned else part.shape for part in parts]
        if {len(shape) for shape in shapes} != {2} or {shape[1] for shape in shapes} != {inputs}:
            return False
        if len(parts) > 1 and turned:  # one below the other, they are joined along their inputs
            return False
        if sum(shape[0] for shape in shapes) != outputs:
            return False
    return len(pieces.experts) == number


def _matrices(pieces: Pieces, transposed: bool, dtype: torch.dtype | None, mode: Mode) -> list[nn.Module]:
    turned = pieces.turned ^ transposed
    made = []
    for parts in pieces.experts:
        modules = [_matrix(part, turned, dtype, mode) for part in parts]
        made.append(modules[0] if len(modules) == 1 else Joined(modules))
    return made


def _matrix(tensor: Tensor, turned: bool, dtype: torch.dtype | None, mode: Mode) -> nn.Module:
    """A product with one matrix; `turned`: its shape in the source is (in, out)."""
    if tensor.coding == "dense":
        values = dense(tensor, dtype)
        layer = nn.Linear(1, 1, bias=False, device="meta")
        layer.weight = nn.Parameter(values.mT if turned else values, requires_grad=False)
        layer.out_features, layer.in_features = layer.weight.shape
        return layer
    return QLinear(tensor, mode=mode) if tensor.scheme.transposed is turned else Turned(tensor)


_library = torch.library.Library("qformat", "FRAGMENT")
_library.define("experts(Tensor x, Tensor index, Tensor weights, int layer) -> Tensor")


def _experts(x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, layer: int) -> torch.Tensor:
    y: torch.Tensor = numbered.layer(layer).mix(x, index, weights)
    return y


def _experts_fake(x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, layer: int) -> torch.Tensor:
    return torch.empty_like(x)


_library.impl("experts", _experts, "CompositeExplicitAutograd")
torch.library.register_fake("qformat::experts", _experts_fake, lib=_library)
