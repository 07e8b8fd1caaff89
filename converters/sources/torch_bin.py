"""Torch checkpoints (`.bin`): torch's weights-only loader on the meta device says where each tensor lies.

No tensor data passes through the unpickler. The loader gives shapes, strides and the offset of each storage; the zip
directory must agree; from there on a tensor is bytes at an offset, like any other.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from qformat import dtypes
from qformat.converters.sources.model import FileId, SourceTensor
from qformat.converters.sources.safetensors import MAX_TENSORS, check_name, check_shape
from qformat.errors import SourceError

MAX_PICKLE = 64 * 2**20


def read_torch_file(path: Path) -> tuple[FileId, dict[str, SourceTensor]]:
    """The file and its tensors in name order of the pickle; SourceError for anything but plain tensors in a zip."""
    file = FileId.of(path)
    storages = _zip_storages(path, file)
    state = _load_meta(path)
    if not isinstance(state, dict) or len(state) > MAX_TENSORS:
        raise SourceError("not a dictionary of tensors", file=str(path), found=type(state).__name__)
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise SourceError("a key is not a string", file=str(path), found=name)
        check_name(name, str(path))
        tensors[name] = _place(name, value, file, storages)
    return file, tensors


def _zip_storages(path: Path, file: FileId) -> dict[int, int]:
    """Offset → length of every stored member, from the archive's directory and its local headers."""
    if not zipfile.is_zipfile(path):
        raise SourceError("not a zip archive: legacy or foreign pickles are refused", file=str(path))
    found = {}
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as stream:
            names = [info.filename for info in archive.infolist()]
            if len(set(names)) != len(names):
                raise SourceError("a zip member appears twice", file=str(path))
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                    raise SourceError("compressed or encrypted zip member", file=str(path), field=info.filename)
                if info.filename.endswith(".pkl") and info.file_size > MAX_PICKLE:
                    raise SourceError("pickle too large", file=str(path), field=info.filename, found=info.file_size)
                stream.seek(info.header_offset)
                local = stream.read(30)
                if len(local) < 30 or local[:4] != b"PK\x03\x04":
                    raise SourceError("bad local zip header", file=str(path), offset=info.header_offset)
                name_length, extra_length = (
                    int.from_bytes(local[26:28], "little"),
                    int.from_bytes(local[28:30], "little"),
                )
                start = info.header_offset + 30 + name_length + extra_length
                if start + info.file_size > file.size:
                    raise SourceError("zip member past the end", file=str(path), field=info.filename, offset=start)
                found[start] = info.file_size
    except zipfile.BadZipFile as error:
        raise SourceError(f"bad zip archive: {error}", file=str(path)) from error
    return found


def _load_meta(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise SourceError("reading .bin needs torch (weights-only loader)", file=str(path)) from error
    try:
        return torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # whatever the unpickler raises, the file is what is wrong
        first_line = str(error).strip().split("\n")[0]
        raise SourceError(f"refused by torch's weights-only loader: {first_line}", file=str(path)) from error


def _place(name: str, value: Any, file: FileId, storages: dict[int, int]) -> SourceTensor:
    import torch

    def bad(message: str, **facts: Any) -> SourceError:
        return SourceError(message, file=file.path, tensor=name, **facts)

    if type(value) not in (torch.Tensor, torch.nn.Parameter) or value.layout != torch.strided or value.is_quantized:
        raise bad("not a plain dense tensor", found=type(value).__name__)
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in dtypes.TABLE:
        raise bad("unknown dtype", field="dtype", found=dtype)
    if not value.is_contiguous():
        raise bad("not contiguous; save it again with .contiguous()", field="stride", found=list(value.stride()))
    shape = tuple(int(dim) for dim in value.shape)
    nbytes = check_shape(shape, bad) * dtypes.itemsize(dtype)
    start = getattr(value.untyped_storage(), "_checkpoint_offset", None)
    if start is None or start not in storages:
        raise bad("its storage is not a member of the archive", field="storage", found=start)
    offset = value.storage_offset() * dtypes.itemsize(dtype)
    if not 0 <= offset <= storages[start] - nbytes:
        raise bad(
            "reaches beyond its storage",
            field="storage",
            offset=start + offset,
            expected=storages[start],
            found=offset + nbytes,
        )
    return SourceTensor(name, dtype, shape, file, start + offset, nbytes)
