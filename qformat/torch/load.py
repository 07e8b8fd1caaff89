"""Filling a module from a file: linears and embeddings that are coded stay in the file, everything else is mapped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import nn

from qformat import store
from qformat.errors import UnsupportedError
from qformat.residency import Residency
from qformat.store import Model
from qformat.tensor import Tensor
from qformat.torch.arrays import chosen, dense
from qformat.torch.embedding import QEmbedding
from qformat.torch.experts import FindPieces, Pieces, stacked, stand_ins
from qformat.torch.linear import Mode, QLinear

# A name in the module to the names that the file may use for it, the likeliest first.
Names = Callable[[str], Iterable[str]]

# The name and dtype of a parameter that the file lacks to its values, made of other tensors, and the names of those.
Assemble = Callable[[str, torch.dtype | None], tuple[torch.Tensor, list[str]] | None]


@dataclass(frozen=True)
class Loaded:
    """What came of loading: names in the module, but for `unused`, which are names in the file. `dense` parameters that
    the file has coded are `decoded` as well, and so are those made of several tensors."""

    quantized: list[str] = field(default_factory=list)
    dense: list[str] = field(default_factory=list)
    decoded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def load_into(
    module: nn.Module,
    path: str | os.PathLike[str] | Model,
    *,
    dtype: str | torch.dtype | None = None,
    mode: Mode = "exact",
    strict: bool = True,
    residency: Residency = "mmap",
    names: Names = lambda name: (name,),
    pieces: FindPieces = lambda name, shape: None,
    assemble: Assemble = lambda name, dtype: None,
) -> Loaded:
    """Give `module`, real or on the meta device, the weights of a file.

    A linear layer (`nn.Linear`, transformers' `Conv1D`) whose weight is coded becomes a `QLinear`, an `nn.Embedding` a
    `QEmbedding`, transformers' experts become `QExperts`. Other parameters and buffers are views of the mapping where
    the dtype fits and decoded copies where not; they have no gradients; what is written to them stays in this process.
    Parameters that the module ties stay tied. Layers that read another file read this one from then on.

    Args:
        module: the weights that it has are dropped.
        path: a file, or one that is open; it stays open as long as the module lives.
        dtype: of the dense parameters; None or "auto" for what the file has.
        mode: of the new QLinear layers.
        residency: of a file that is opened here, see `qformat.open`.
        strict: refuse a file that lacks a parameter or a persistent buffer.
        names: what the file may call a parameter of the module.
        pieces: finds the matrices of a parameter of experts that the file has one by one.
        assemble: makes a parameter that the file has only in pieces.

    Raises:
        ValueError: a mode or residency that makes no sense.
        UnsupportedError: something is missing, a shape differs, or torch has no such dtype.
        QFormatError: the file is damaged.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(get_args(Mode))}")
    dtype = chosen(dtype)
    file = opened(path, residency)
    report = Loaded()
    used: set[str] = set()

    def find(name: str, shape: tuple[int, ...]) -> Pieces | None:
        found = next((file[other] for other in names(name) if other in file), None)
        return pieces(name, shape) if found is None else stacked(found, found.shape != shape)

    earlier = _earlier(module)
    experts = list(stand_ins(module, find, dtype, mode))
    for group in _tied(module):
        found = next((other for name in group for other in names(name) if other in file), None)
        if found is None:
            made = assemble(group[0], dtype)
            if made is None:
                report.missing.extend(group)
            else:
                _set(module, group, nn.Parameter(made[0], requires_grad=False))
                report.dense.extend(group)
                report.decoded.extend(group)
                used.update(made[1])
            continue
        used.update(other for name in group for other in names(name) if other in file)
        _fill(module, group, file[found], dtype, mode, report)
    for layers in earlier:
        found = next((other for name in layers for other in names(f"{name}.weight") if other in file), None)
        own = [f"{name}.weight" for name in layers]
        if found is None:
            report.missing.extend(own)
            continue
        used.update(other for name in own for other in names(name) if other in file)
        for layer in layers.values():
            _again(layer, file[found], dtype, mode)
        (report.dense if file[found].coding == "dense" else report.quantized).extend(own)
    _fill_buffers(module, file, names, dtype, used, report)
    for stand_in in experts:
        stand_in.place(module)
        for name, its in stand_in.weights.items():
            parts = [part for expert in its.experts for part in expert]
            coded = any(part.coding != "dense" for part in parts)
            (report.quantized if coded else report.dense).append(name)
            used.update(part.name for part in parts)
    report.unused.extend(name for name in file if name not in used)
    if strict and report.missing:
        raise UnsupportedError(
            "the file lacks weights that the module needs",
            file=file.path,
            tensor=", ".join(sorted(report.missing)[:10]),
        )
    return report


def opened(path: str | os.PathLike[str] | Model, residency: Residency) -> Model:
    """The file at `path`, or the one that is open; ValueError if it was opened to be read otherwise."""
    if not isinstance(path, Model):
        return store.open(path, residency=residency)
    if residency not in ("mmap", path.residency):
        raise ValueError(f"residency is {residency!r}, but the file is open with {path.residency!r}")
    return path


def _tied(module: nn.Module) -> list[list[str]]:
    """The names of the parameters, those that are one parameter together."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return list(groups.values())


def _earlier(module: nn.Module) -> list[dict[str, QLinear | QEmbedding]]:
    """The layers by name that read a file already, those of one weight together."""
    groups: dict[int, dict[str, QLinear | QEmbedding]] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, QLinear | QEmbedding):
            groups.setdefault(id(layer.tensor), {})[name] = layer
    return list(groups.values())


def _again(layer: QLinear | QEmbedding, tensor: Tensor, dtype: torch.dtype | None, mode: Mode) -> None:
    """Another file's weight for a layer."""
    _check_shape(tensor, layer.tensor.shape)
    if isinstance(layer, QLinear):
        layer.replace(tensor)
        layer.mode = mode
    elif tensor.can_slice_rows and not tensor.scheme.transposed:
        layer.replace(tensor, _target(tensor, dtype))
    else:
        raise UnsupportedError("an embedding needs rows that decode alone", file=tensor._model.path, tensor=tensor.name)


def _check_shape(tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise UnsupportedError(
            "the shape differs",
            file=tensor._model.path,
            tensor=tensor.name,
            expected=expected,
            found=tensor.shape,
        )


def _fill(
    module: nn.Module, group: list[str], tensor: Tensor, dtype: torch.dtype | None, mode: Mode, report: Loaded
) -> None:
    """One weight to all of its places: a QLinear in those that are linears, the same dense parameter in the others."""
    parameter: nn.Parameter | None = None
    for name in group:
        path, _, last = name.rpartition(".")
        owner = module.get_submodule(path)
        old = getattr(owner, last)
        _check_shape(tensor, tuple(old.shape))
        coded = path and last == "weight" and tensor.coding != "dense"
        layer = _layer(owner, tensor, _target(tensor, dtype), mode) if coded else None
        if layer is not None:
            above, _, own = path.rpartition(".")
            vars(layer).update({key: its for key, its in vars(owner).items() if "hook" in key and "ward_" in key})
            setattr(module.get_submodule(above), own, layer.train(owner.training))
            report.quantized.append(name)
            continue
        if parameter is None:
            parameter = nn.Parameter(dense(tensor, _target(tensor, dtype)), requires_grad=False)
        setattr(owner, last, parameter)
        report.dense.append(name)
        if tensor.coding != "dense":
            report.decoded.append(name)


def _set(module: nn.Module, group: list[str], parameter: nn.Parameter) -> None:
    """One parameter to all of its places, whose shapes must be its own."""
    for name in group:
        path, _, last = name.rpartition(".")
        owner = module.get_submodule(path)
        old = getattr(owner, last)
        if old.shape != parameter.shape:
            raise UnsupportedError(
                "the shape differs", tensor=name, expected=tuple(old.shape), found=tuple(parameter.shape)
            )
        setattr(owner, last, parameter)


def _layer(owner: nn.Module, tensor: Tensor, dtype: torch.dtype | None, mode: Mode) -> nn.Module | None:
    """What stands in for a module whose weight is coded; None where only the decoded weight serves."""
    if is_linear(owner, tensor):
        return QLinear(tensor, owner.bias, mode=mode)
    if is_embedding(owner, tensor):
        return QEmbedding(tensor, dtype, owner.padding_idx, getattr(owner, "embed_scale", None))
    return None


def is_embedding(module: nn.Module, tensor: Tensor) -> bool:
    """Whether a module looks up rows and at most multiplies them with its `embed_scale`, and the rows of `tensor`
    decode alone."""
    if not isinstance(module, nn.Embedding) or module.max_norm is not None or "forward" in vars(module):
        return False
    known = type(module).forward is nn.Embedding.forward or _is_scaled(type(module).forward)
    return known and tensor.can_slice_rows and not tensor.scheme.transposed


def _is_scaled(forward: Any) -> bool:
    """Whether this is the forward of transformers' scaled embeddings (Gemma's, BART's, …), of which each model has a
    copy: `super().forward(ids)` times `self.embed_scale`, in the dtype of the weight where that is a tensor."""
    if not forward.__module__.startswith("transformers.models."):
        return False
    uses = set(forward.__code__.co_names)
    own = {"super", "forward", "embed_scale"}
    return forward.__qualname__.endswith("ScaledWordEmbedding.forward") and uses in (
        own,
        own | {"to", "weight", "dtype"},
    )


# Modules of transformers that compute x Wᵀ + bias, recognised without importing transformers, and whether their weight
# is (in_features, out_features).
_LINEARS = {
    ("transformers.pytorch_utils", "Conv1D"): True,
    ("transformers.models.falcon.modeling_falcon", "FalconLinear"): False,
}


def is_linear(module: nn.Module, tensor: Tensor) -> bool:
    """Whether a module computes x Wᵀ + bias from a weight that lies as `tensor` does. Subclasses that compute something
    else do not count, nor do modules that were given another `forward`."""
    if "forward" in vars(module):
        return False
    kind = type(module)
    transposed = False if kind.forward is nn.Linear.forward else _LINEARS.get((kind.__module__, kind.__name__))
    return transposed is not None and tensor.scheme.transposed is transposed


def _target(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype | None:
    """`dtype` for floats, None (what it is) for anything else."""
    return dtype if "float" in tensor.dtype else None


def _fill_buffers(
    module: nn.Module, file: Model, names: Names, dtype: torch.dtype | None, used: set[str], report: Loaded
) -> None:
    """Buffers that the file has; persistent ones that it lacks are missing, others are as the module made them."""
    kept = module.state_dict(keep_vars=True).keys()
    for name, buffer in list(module.named_buffers()):
        found = next((other for other in names(name) if other in file), None)
        path, _, last = name.rpartition(".")
        if found is None:
            if name in kept or buffer.is_meta:
                report.missing.append(name)
            continue
        used.add(found)
        # a copy: modules write to their buffers (running statistics)
        setattr(module.get_submodule(path), last, dense(file[found], _target(file[found], dtype)).clone())
        report.dense.append(name)
