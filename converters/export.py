"""Writing a file back as a plain Hugging Face directory: every tensor decoded, nothing quantized left.

Shards are streamed: the header first (sizes are known), then rows as they are decoded, so memory stays small.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import qformat
from qformat import config_json, dtypes
from qformat.container.create import sync_directory
from qformat.converters.budget import parse_size
from qformat.converters.sources.directory import ATTACHMENTS
from qformat.errors import OutputError, QFormatError, RecipeError

SLAB = 2**21  # weights decoded at a time
FLOAT_DTYPES = ("bfloat16", "float16", "float32")
_NAMES = {ours: theirs for theirs, (ours, _) in dtypes.SAFETENSORS.items()}
_INDEX = "model.safetensors.index.json"
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")

Progress = Callable[[int, str], None]


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    files: tuple[str, ...]
    nbytes: int


def export(
    file: str | Path,
    directory: str | Path,
    *,
    dtype: str = "bfloat16",
    shard_size: str | int = "5GiB",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write the model in `file` to `directory` as safetensors of `dtype`, with its configuration and tokenizer.

    Integers and booleans keep their type; an alias is written as a copy, so that any loader finds it. With `overwrite`,
    weights that an earlier export left under other names go.

    Raises:
        OutputError: the directory is not empty (and not `overwrite`), or cannot be written.
    """
    if dtype not in FLOAT_DTYPES:
        raise RecipeError("cannot export to this dtype", field="dtype", expected=", ".join(FLOAT_DTYPES), found=dtype)
    root = Path(directory)
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise OutputError("is not a directory", file=str(root))
    if root.exists() and any(root.iterdir()) and not overwrite:
        raise OutputError("is not empty; overwrite (--overwrite) writes into it", file=str(root))
    limit = parse_size(shard_size)
    with qformat.open(str(file)) as model:
        try:
            root.mkdir(parents=True, exist_ok=True)
            return _write(model, root, dtype, limit, progress)
        except OSError as error:
            if isinstance(error, QFormatError):
                raise
            raise OutputError(f"cannot be written: {error.strerror or error}", file=str(root)) from error


def _write(model: Any, root: Path, dtype: str, limit: int, progress: Progress | None) -> Exported:
    shards = _cut(model, dtype, limit)
    names = _shard_names(len(shards))
    weight_map, total, done = {}, 0, 0
    for name, tensors in zip(names, shards, strict=True):
        with _replaced(root / name) as stream:
            stream.write(_header(model, tensors, dtype))
            for tensor in tensors:
                for piece in _pieces(model[tensor], dtype):
                    stream.write(memoryview(piece).cast("B"))
                    done += piece.nbytes
                    if progress is not None:
                        progress(done, tensor)
                weight_map[tensor] = name
                total += _nbytes(model[tensor], dtype)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        with _replaced(root / _INDEX) as stream:
            stream.write(json.dumps(index, indent=2, sort_keys=True).encode() + b"\n")
    side = _side_files(model.attachments, dtype)
    for name, data in side.items():
        with _replaced(root / name) as stream:
            stream.write(data)
    written = {*names, _INDEX} if len(shards) > 1 else set(names)
    for path in root.iterdir():  # weights of an earlier export: a loader could take them for these
        if _WEIGHTS.fullmatch(path.name) and path.name not in written:
            path.unlink()
    sync_directory(root)
    return Exported(root, (*names, *side), total)


def exported_bytes(model: Any, dtype: str = "bfloat16") -> int:
    """Bytes of all tensors once exported."""
    return sum(_nbytes(model[name], dtype) for name in model)


def _cut(model: Any, dtype: str, limit: int) -> list[list[str]]:
    """Tensor names of each shard: cut in file order, a shard never empty."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in model:
        nbytes = _nbytes(model[name], dtype)
        if shards[-1] and size + nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    return shards


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


def _target(tensor: Any, dtype: str) -> str:
    return dtype if dtypes.TABLE[tensor.dtype].kind == "float" else str(tensor.dtype)


def _nbytes(tensor: Any, dtype: str) -> int:
    return int(prod(tensor.shape)) * dtypes.itemsize(_target(tensor, dtype))


def _header(model: Any, names: list[str], dtype: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in names:
        tensor = model[name]
        end = position + _nbytes(tensor, dtype)
        header[name] = {
            "dtype": _NAMES[_target(tensor, dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def _pieces(tensor: Any, dtype: str) -> Iterator[npt.NDArray[np.uint8]]:
    """The tensor's values in C order, some rows at a time."""
    target = _target(tensor, dtype)
    shape = tuple(tensor.shape)
    if 0 in shape:
        return
    if target != dtype:  # integers: the stored bytes are the values
        yield np.asarray(tensor.arrays()["values"]).reshape(-1).view(np.uint8)
        return
    if len(shape) < 2:
        yield _bytes(tensor.decode(dtype), target)
        return
    step = max(1, SLAB // max(prod(shape[1:]), 1))
    for start in range(0, shape[0], step):
        yield _bytes(tensor.decode(dtype, rows=slice(start, min(start + step, shape[0]))), target)


def _bytes(values: npt.NDArray[Any], target: str) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(values, dtype=dtypes.numpy_dtype(target)).reshape(-1).view(np.uint8)


def _side_files(attachments: Any, dtype: str) -> dict[str, bytes]:
    """Attachments that a directory may hold; names come from a file, so only known ones are written."""
    side = {name: bytes(attachments[name]) for name in attachments if name in ATTACHMENTS}
    if "config.json" in side:
        side["config.json"] = _config(side["config.json"], dtype)
    return side


def _config(raw: bytes, dtype: str) -> bytes:
    """The configuration with the dtype of what is written now."""
    try:
        config = config_json.loads(raw)
    except ValueError:
        return raw
    keys = [key for key in ("torch_dtype", "dtype") if key in config] or ["torch_dtype"]
    if all(config.get(key) == dtype for key in keys):
        return raw
    return json.dumps({**config, **dict.fromkeys(keys, dtype)}, indent=2, ensure_ascii=False).encode() + b"\n"


class _replaced:  # noqa: N801 - reads as a verb in `with`
    """A file that appears under its name only when it is complete and on the disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, path.with_name(path.name + ".partial")

    def __enter__(self) -> Any:
        self.stream = open(self.partial, "wb")
        return self.stream

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None:
                self.stream.flush()
                os.fsync(self.stream.fileno())
        finally:
            self.stream.close()
        if kind is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink()
