"""A whole transformers model from one file: its config and tokenizer are attachments, its code is transformers' own."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from qformat import config_json, store
from qformat.errors import UnsupportedError
from qformat.residency import Residency
from qformat.store import Model
from qformat.torch import attention
from qformat.torch.arrays import chosen
from qformat.torch.experts import Pieces
from qformat.torch.linear import Mode
from qformat.torch.load import load_into, opened
from qformat.torch.renamed import Renamed


def load_model(
    path: str | os.PathLike[str] | Model,
    *,
    dtype: str | torch.dtype | None = None,
    mode: Mode = "exact",
    residency: Residency = "mmap",
    **changes: Any,
) -> Any:
    """A transformers model over the mapped file, ready to run: the class that its config names, or the base model.

    Code that comes with a checkpoint is never run: a model that transformers does not have is refused.

    Args:
        path: a .qf file with a config.json, or one that is open; it stays open as long as the model lives.
        dtype: to compute in (`torch_dtype` is understood as well); None or "auto" for the config's, or without one for
            that of the first weight.
        mode: of the quantized layers, see `QLinear`.
        residency: where the weights of a file that is opened here are read, see `qformat.open`.
        changes: as transformers takes them: to the config where it knows the name, such as
            `attn_implementation="sdpa"`, else to the model's class. By default a model that would use `sdpa` computes
            the attention of one new token in float32, see `attention`.

    Raises:
        TypeError: a name that neither config nor model knows.
        ValueError: a mode or residency that makes no sense.
        UnsupportedError: no config, an unknown model type, missing weights or other shapes, or no such dtype.
        QFormatError: the file is damaged.
    """
    older = changes.pop("torch_dtype", None)
    named = chosen(older if dtype is None else dtype)
    file = opened(path, residency)
    config, rest = _config(file, changes)
    compute = named or config.dtype or _first_dtype(file)
    kind = _model_class(file, config)
    with EmptyOnMeta():
        model = kind._from_config(config, dtype=compute, **rest)
    model.tie_weights()
    prefix = f"{model.base_model_prefix}." if model.base_model_prefix else ""

    @cache
    def renamed() -> Renamed:
        return Renamed(model, file)

    def names(name: str) -> Iterator[str]:
        # a base model is saved without its prefix; a model with a head may be loaded from it, and the other way round
        yield name
        yield prefix + name if not name.startswith(prefix) else name.removeprefix(prefix)
        yield from renamed().names(name)

    def pieces(name: str, shape: tuple[int, ...]) -> Pieces | None:
        return renamed().pieces(name, shape)

    def assemble(name: str, dtype: torch.dtype | None) -> tuple[torch.Tensor, list[str]] | None:
        return renamed().assemble(name, dtype)

    report = load_into(model, file, dtype=compute, mode=mode, names=names, pieces=pieces, assemble=assemble)
    if report.decoded:
        warnings.warn(
            f"{len(report.decoded)} weights are decoded, since the modules that use them are none that can read codes: "
            f"{', '.join(report.decoded[:3])}{' …' * (len(report.decoded) > 3)}",
            stacklevel=2,
        )
    ignored = model._keys_to_ignore_on_load_unexpected or ()
    if unused := [name for name in report.unused if not any(re.search(pattern, name) for pattern in ignored)]:
        warnings.warn(
            f"{file.path}: {len(unused)} weights have no place in {kind.__name__}: "
            f"{', '.join(unused[:3])}{' …' * (len(unused) > 3)}",
            stacklevel=2,
        )
    if "generation_config.json" in file.attachments and hasattr(model, "generation_config"):
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_dict(_json(file, "generation_config.json"))
    if "attn_implementation" not in changes:
        attention.install(model)
    if report.quantized:
        model.save_pretrained = _refuse_to_save
    return model.eval()


def _refuse_to_save(*_: Any, **__: Any) -> None:
    """In place of `save_pretrained`, which would write a checkpoint without the weights that stay in the file."""
    raise UnsupportedError("the weights are in the .qf file: copy that, or write a checkpoint with `qformat export`")


def load_tokenizer(path: str | os.PathLike[str] | Model) -> Any:
    """The tokenizer of a file's attachments.

    Raises:
        UnsupportedError: the file carries none.
    """
    from transformers import AutoTokenizer

    file = path if isinstance(path, Model) else store.open(path)
    if not any("token" in name or name in _VOCABULARIES for name in file.attachments):
        raise UnsupportedError("the file carries no tokenizer", file=file.path, field="attachments")
    with tempfile.TemporaryDirectory() as folder:
        for name in file.attachments:  # all, since templates and special tokens have files of their own
            if Path(name).name == name:  # a name, not a path; one that would leave the folder is not a tokenizer's
                (Path(folder) / name).write_bytes(file.attachments[name])
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def compile_config(**options: Any) -> Any:
    """transformers' `CompileConfig` for steps of `generate(cache_implementation="static", compile_config=…)` on a CPU,
    where transformers compiles only if it is told to.

    The first steps with a cache of another length take as long as compiling does.

    Args:
        options: of `CompileConfig`.
    """
    from transformers import CompileConfig

    config = CompileConfig(**{"fullgraph": True, "dynamic": False, "mode": "default"} | options)
    config._compile_all_devices = True
    return config


_VOCABULARIES = ("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model")


class EmptyOnMeta(TorchFunctionMode):
    """Modules built inside allocate nothing for `torch.empty`, which is what parameters are made of, while buffers that
    are computed (rotary frequencies, position ids, masks) are real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _json(file: Model, name: str) -> dict[str, Any]:
    """An attachment that must be a JSON object."""
    if name not in file.attachments:
        raise UnsupportedError("the file carries no such attachment", file=file.path, field=name)
    try:
        return config_json.loads(bytes(file.attachments[name]))
    except ValueError as error:
        raise UnsupportedError(f"not a JSON object: {error}", file=file.path, field=name) from error


def _config(file: Model, changes: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The config of the attachment with `changes`, as transformers' class for its model type, and those of them that
    it does not know."""
    from transformers import CONFIG_MAPPING

    values = _json(file, "config.json")
    kind = values.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise UnsupportedError(
            "transformers has no such model; code from checkpoints is not run",
            file=file.path,
            field="model_type",
            found=kind,
        )
    # what names foreign code or a quantization that the file no longer has
    for key in ("auto_map", "quantization_config"):
        values.pop(key, None)
    try:
        config = CONFIG_MAPPING[kind].from_dict(dict(values))
    except Exception as error:  # the classes of models have checks, and errors, of their own
        raise UnsupportedError(f"transformers refuses it: {error}", file=file.path, field="config.json") from error
    if not changes:
        return config, {}
    return CONFIG_MAPPING[kind].from_dict(values, return_unused_kwargs=True, **changes)


def _first_dtype(file: Model) -> torch.dtype:
    """The dtype that the first weight had that has one to compute in."""
    kinds = ("float32", "float16", "bfloat16", "float64")
    return next((getattr(torch, tensor.dtype) for tensor in file.values() if tensor.dtype in kinds), torch.float32)


def _model_class(file: Model, config: Any) -> Any:
    """transformers' class of the first architecture, or the base model of the config's type."""
    import transformers

    for name in config.architectures or ():
        kind: Any = getattr(transformers, name, None)
        a_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
        if a_model and kind.config_class is type(config):
            return kind
    try:
        return transformers.MODEL_MAPPING[type(config)]
    except KeyError:
        raise UnsupportedError(
            "transformers has no model for it", file=file.path, field="architectures", found=config.architectures
        ) from None
