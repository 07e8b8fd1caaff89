"""A Hugging Face directory: shards through their index, configuration, and the side files worth keeping."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qformat import config_json
from qformat.converters.sources.model import FileId, Source, SourceTensor, open_regular
from qformat.converters.sources.quantized import refuse_quantized
from qformat.converters.sources.safetensors import read_header
from qformat.converters.sources.torch_bin import read_torch_file
from qformat.errors import SourceError

MAX_JSON = 64 * 2**20
MAX_INDEX_ENTRIES = 2**20
MAX_SHARDS = 99_999

# Side files that a loader needs, with the largest size believed. Weights, code and everything else stay behind.
ATTACHMENTS: dict[str, int] = {
    "config.json": 2**20,
    "generation_config.json": 2**20,
    "tokenizer.json": 64 * 2**20,
    "tokenizer_config.json": 16 * 2**20,
    "tokenizer.model": 64 * 2**20,
    "special_tokens_map.json": 4 * 2**20,
    "added_tokens.json": 4 * 2**20,
    "vocab.json": 64 * 2**20,
    "vocab.txt": 64 * 2**20,
    "merges.txt": 64 * 2**20,
    "spiece.model": 64 * 2**20,
    "sentencepiece.bpe.model": 64 * 2**20,
    "chat_template.json": 2**20,
    "chat_template.jinja": 2**20,
    "preprocessor_config.json": 2**20,
    "processor_config.json": 2**20,
    "video_preprocessor_config.json": 2**20,
    "LICENSE": 2**20,
    "LICENSE.txt": 2**20,
    "LICENSE.md": 2**20,
    "NOTICE": 2**20,
}

_SHARD_NAME = re.compile(r"[A-Za-z0-9._-]+")
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def open_directory(
    root: Path, *, hub_id: str | None = None, revision: str | None = None, trust_quantized: bool = False
) -> Source:
    """The checkpoint in directory `root` (a plain directory or a snapshot of the hub's cache)."""
    config = read_config(root / "config.json", root) if (root / "config.json").exists() else {}
    warnings: list[str] = []
    paths, weight_map = _weight_files(root, warnings)
    tensors: dict[str, SourceTensor] = {}
    files = []
    for path in paths:
        file, found = _read_any(path)
        files.append(file)
        _merge(tensors, found, file, weight_map, warnings)
    if weight_map is not None:
        missing = [name for name in weight_map if name not in tensors]
        if missing:
            raise SourceError(
                f"the index lists {len(missing)} tensor(s) that their shard lacks",
                file=str(root / weight_map[missing[0]]),
                tensor=missing[0],
            )
    source = Source(
        label=hub_id or str(root),
        tensors=tensors,
        files=tuple(files),
        attachments=_attachments(root),
        config=config,
        hub_id=hub_id,
        revision=revision,
        warnings=tuple(warnings),
    )
    if not trust_quantized:
        refuse_quantized(source, root)
    return source


def open_file(path: Path, *, trust_quantized: bool = False) -> Source:
    """One bare weight file. Nothing beside it is read: a stray config.json may belong to something else."""
    file, tensors = _read_any(path)
    source = Source(label=str(path), tensors=tensors, files=(file,))
    if not trust_quantized:
        refuse_quantized(source, None)
    return source


def _read_any(path: Path) -> tuple[FileId, dict[str, SourceTensor]]:
    if path.suffix in (".bin", ".pt", ".pth"):
        return read_torch_file(path)
    if path.suffix == ".qf":
        raise SourceError("already quantized; qformat export makes a checkpoint of it", file=str(path))
    if path.suffix != ".safetensors":
        raise SourceError("not a checkpoint that can be read", file=str(path), expected=".safetensors or .bin")
    file, tensors, _ = read_header(path)
    return file, tensors


def _weight_files(root: Path, warnings: list[str]) -> tuple[list[Path], Mapping[str, str] | None]:
    """The weight files of a directory, in order, and the index's map from tensor to file when there is one."""
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        index = root / f"{stem}{suffix}.index.json"
        single = root / f"{stem}{suffix}"
        if index.exists():
            weight_map = read_index(index, root, suffix)
            return [inside(root, name) for name in sorted(set(weight_map.values()))], weight_map
        if single.exists() or single.is_symlink():
            return [inside(root, single.name)], None
    loose = sorted(path.name for path in root.glob("*.safetensors"))
    sharded = [name for name in loose if re.search(r"-\d{5}-of-\d{5}\.safetensors$", name)]
    if sharded:
        raise SourceError(
            "shards without their index", file=str(root / "model.safetensors.index.json"), found=len(sharded)
        )
    if len(loose) == 1:
        return [inside(root, loose[0])], None
    if loose:
        raise SourceError(f"{len(loose)} safetensors files and no index; name one of them", file=str(root))
    raise SourceError("no model.safetensors, index or pytorch_model.bin here", file=str(root))


def read_index(path: Path, root: Path, suffix: str) -> dict[str, str]:
    """`weight_map` of an index file, every shard name checked before any is opened."""
    index = read_json(inside(root, path.name), MAX_JSON)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise SourceError(
            "weight_map is not an object", file=str(path), field="weight_map", found=type(weight_map).__name__
        )
    if len(weight_map) > MAX_INDEX_ENTRIES:
        raise SourceError(
            "too many entries",
            file=str(path),
            field="weight_map",
            expected=f"≤ {MAX_INDEX_ENTRIES}",
            found=len(weight_map),
        )
    for tensor, name in weight_map.items():
        if not isinstance(name, str):
            raise SourceError("a shard name is not a string", file=str(path), tensor=tensor, field="weight_map")
    for name in set(weight_map.values()):
        check_shard_name(name, path, suffix)
    if len(set(weight_map.values())) > MAX_SHARDS:
        raise SourceError("too many shards", file=str(path), field="weight_map", expected=f"≤ {MAX_SHARDS}")
    return weight_map


def check_shard_name(name: str, index: Path, suffix: str) -> None:
    """A plain file name with the index's own suffix: no path, drive, device or hidden file on any system."""
    plain = _SHARD_NAME.fullmatch(name) and not name.startswith(".") and not _DEVICE_NAME.fullmatch(name)
    if not plain or not name.endswith(suffix):
        raise SourceError(
            "a shard must be a plain file name beside the index",
            file=str(index),
            field="weight_map",
            expected=f"*{suffix}",
            found=name,
        )


def _merge(
    tensors: dict[str, SourceTensor],
    found: dict[str, SourceTensor],
    file: FileId,
    weight_map: Mapping[str, str] | None,
    warnings: list[str],
) -> None:
    for name, tensor in found.items():
        if name in tensors:
            raise SourceError("a tensor is in two shards", file=file.path, tensor=name, found=tensors[name].file.name)
        if weight_map is not None and name not in weight_map:
            warnings.append(f"{file.name} holds {name}, which the index does not list")
        tensors[name] = tensor


def inside(root: Path, name: str) -> Path:
    """`root/name` resolved; a link may lead into the hub cache's own blobs, nowhere else."""
    path = root / name
    try:
        real = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", file=str(path)) from error
    base = Path(os.path.realpath(root))
    allowed = [base]
    if base.parent.name == "snapshots":
        allowed.append(base.parent.parent / "blobs")
    if not any(real.is_relative_to(folder) for folder in allowed):
        raise SourceError("a link leads out of the checkpoint", file=str(path), found=str(real))
    FileId.of(real)
    return path


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """A JSON object of at most `limit` bytes."""
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise SourceError("file too large", file=str(path), expected=f"≤ {limit} bytes", found=size)
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            raw = stream.read(limit + 1)
        return config_json.loads(raw)
    except ValueError as error:
        raise SourceError(f"not a JSON object: {error}", file=str(path)) from error
    finally:
        os.close(descriptor)


def read_config(path: Path, root: Path) -> dict[str, Any]:
    """config.json with the few keys that we use checked; nothing in it is ever imported or run."""
    config = read_json(inside(root, path.name), ATTACHMENTS["config.json"])
    if not isinstance(config.get("model_type", ""), str):
        raise SourceError("must be a string", file=str(path), field="model_type", found=config["model_type"])
    sections = [("", config)]
    sections += [
        (f"{key}.", value) for key, value in config.items() if key == "text_config" and isinstance(value, dict)
    ]
    for prefix, section in sections:
        for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"):
            value = section.get(key, 1)
            if type(value) is list and key == "intermediate_size":  # one size a layer in some models
                continue
            if type(value) is not int or not 0 <= value <= 2**31:
                raise SourceError(
                    "must be a whole number", file=str(path), field=prefix + key, expected="0 to 2^31", found=value
                )
    return config


def _attachments(root: Path) -> dict[str, FileId]:
    found = {}
    for name, limit in ATTACHMENTS.items():
        if not (root / name).exists() and not (root / name).is_symlink():
            continue
        file = FileId.of(inside(root, name), name)
        if file.size > limit:
            raise SourceError("file too large", file=str(root / name), expected=f"≤ {limit} bytes", found=file.size)
        found[name] = file
    return found


def read_side_file(file: FileId) -> bytes:
    """All bytes of an attachment, exactly as long as when it was listed."""
    descriptor = open_regular(Path(file.path))
    with os.fdopen(descriptor, "rb") as stream:
        data = stream.read(file.size + 1)
    if len(data) != file.size:
        raise SourceError("changed size while being read", file=file.path, expected=file.size, found=len(data))
    return data
