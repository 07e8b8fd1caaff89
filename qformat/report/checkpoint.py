"""A directory of safetensors files as Hugging Face lays it out, on this machine or behind an address: headers only."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from qformat import config_json
from qformat.errors import LimitError, SourceError
from qformat.remote import filesystem, is_remote, reported
from qformat.report.byte_source import ByteSource, open_bytes
from qformat.report.overview import Overview, Row
from qformat.report.safetensors_header import read_header

MAX_JSON = 64 << 20

_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
_INDEX = "model.safetensors.index.json"
_CONFIG = "config.json"


class Folder:
    """A directory: the names of its files, and any of them opened."""

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/") if is_remote(path) else path
        if is_remote(path):
            files, inside = filesystem(path)
            with reported(path):
                entries = files.ls(inside, detail=False)
            self.names = {str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries}
        else:
            self.names = set(os.listdir(path))

    def place(self, name: str) -> str:
        """The path or address of a file."""
        return f"{self.path}/{name}" if is_remote(self.path) else os.path.join(self.path, name)

    def open(self, name: str) -> ByteSource:
        """The bytes of a file."""
        return open_bytes(self.place(name))

    def json(self, name: str) -> dict[str, Any]:
        """The JSON object in a file of bounded size."""
        source = self.open(name)
        try:
            if source.size > MAX_JSON:
                raise LimitError("too long", file=source.name, expected=f"≤ {MAX_JSON} bytes", found=source.size)
            return config_json.loads(bytes(source.read(0, source.size)))
        except ValueError as error:
            raise SourceError(f"not a JSON object: {error}", file=source.name) from None
        finally:
            source.close()


def is_directory(path: str) -> bool:
    """Whether `path` is a directory. Web servers have none, and what is called like a file is not asked about."""
    if not is_remote(path):
        return os.path.isdir(path)
    if path.startswith(("http:", "https:")) or path.endswith((".qf", ".safetensors", ".gguf")):
        return False
    files, inside = filesystem(path)
    with reported(path):
        return bool(files.isdir(inside))


def overview(path: str) -> Overview:
    """All safetensors files of a directory, with what its config.json says of the model."""
    folder = Folder(path)
    names = _shards(folder)
    rows: list[Row] = []
    total, seen = 0, set[str]()
    for name in names:
        source = folder.open(name)
        try:
            own, _ = read_header(source)
        finally:
            source.close()
        for row in own:
            if row.name in seen:
                raise SourceError("a tensor stands in two files", file=source.name, tensor=row.name)
            seen.add(row.name)
        rows += own
        total += source.size
    return Overview(path, "safetensors", None, total, rows, _facts(folder), files=names if len(names) > 1 else ())


def _shards(folder: Folder) -> list[str]:
    """The names of the safetensors files of a checkpoint: those of its index, or all there are."""
    if _INDEX not in folder.names:
        names = sorted(name for name in folder.names if _SHARD.fullmatch(name))
        if not names:
            raise SourceError("no .safetensors file in this directory", file=folder.path)
        return names
    index, weight_map = folder.place(_INDEX), folder.json(_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise SourceError("weight_map is not an object of file names", file=index, field="weight_map")
    names = sorted(set(weight_map.values()))
    for name in names:
        if not _SHARD.fullmatch(name):
            raise SourceError("not the name of a file beside the index", file=index, field="weight_map", found=name)
    missing = [name for name in names if name not in folder.names]
    if missing:
        raise SourceError("files of the checkpoint are missing", file=folder.path, found=", ".join(missing[:20]))
    return names


def _facts(folder: Folder) -> dict[str, Any]:
    """A few facts of config.json under the keys that model files use."""
    path = folder.path if is_remote(folder.path) else os.path.abspath(folder.path)
    facts: dict[str, Any] = {"general.name": os.path.basename(path)}
    if _CONFIG not in folder.names:
        return facts
    config = folder.json(_CONFIG)
    architectures, quantization = config.get("architectures"), config.get("quantization_config")
    if isinstance(config.get("model_type"), str):
        facts["general.architecture"] = config["model_type"]
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
        facts["config.architectures"] = architectures[0]
    if isinstance(quantization, Mapping) and isinstance(quantization.get("quant_method"), str):
        facts["config.quantization"] = quantization["quant_method"]
    return facts
