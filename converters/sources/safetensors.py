"""A reader of safetensors headers that trusts nothing: no torch, no safetensors package, bounded memory.

Layout: u64 length H, H bytes of JSON, tensor bytes that cover the rest of the file exactly. Stricter than the
reference reader where two parsers could differ: a duplicate name or field is refused.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from qformat.converters.sources.model import FileId, SourceTensor, open_regular
from qformat.dtypes import SAFETENSORS, TABLE
from qformat.errors import SourceError

MAX_HEADER = 32 * 2**20
MAX_SLOW_HEADER = 4 * 2**20  # headers with escapes go through a parser that costs many times their size
MAX_TENSORS = 2**20
MAX_NAME = 512
MAX_RANK = 8
MAX_DIM = 2**40
MAX_ELEMENTS = 2**48


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_header(path: Path) -> tuple[FileId, dict[str, SourceTensor], dict[str, str]]:
    """The file, its tensors in the order of their bytes, and its `__metadata__`; SourceError for anything malformed."""
    file = FileId.of(path)
    raw = _header_bytes(path, file)
    entries, metadata = _parse(raw, path)
    return file, _place(entries, file, 8 + len(raw)), metadata


def _header_bytes(path: Path, file: FileId) -> bytes:
    descriptor = open_regular(path)
    try:
        prefix = os.pread(descriptor, 8, 0)
        if len(prefix) < 8:
            raise SourceError("too short for a safetensors file", file=str(path), expected=8, found=file.size)
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER:
            kind = _sniff(descriptor)
            hint = f"; this looks like {kind}" if kind else ""
            raise SourceError(
                f"header too long{hint}",
                file=str(path),
                field="header length",
                offset=0,
                expected=f"≤ {MAX_HEADER}",
                found=length,
            )
        if length > file.size - 8:
            raise SourceError(
                "the header runs past the end of the file",
                file=str(path),
                field="header length",
                offset=0,
                expected=f"≤ {file.size - 8}",
                found=length,
            )
        raw = os.pread(descriptor, length, 8)
        if len(raw) != length:
            raise SourceError("the file ends inside its header", file=str(path), offset=8 + len(raw))
        return raw
    finally:
        os.close(descriptor)


def _sniff(descriptor: int) -> str | None:
    start = os.pread(descriptor, 8, 0)
    known = {b"PK\x03\x04": "a zip archive (a torch checkpoint?)", b"\x80\x02": "a pickle", b"\x80\x04": "a pickle"}
    known |= {b"GGUF": "a GGUF file", b"version ": "a git-lfs pointer", b"7z\xbc\xaf": "a 7z archive"}
    return next((kind for magic, kind in known.items() if start.startswith(magic)), None)


def _parse(raw: bytes, path: Path) -> tuple[dict[str, _Entry], dict[str, str]]:
    def bad(message: str, **facts: Any) -> SourceError:
        return SourceError(message, file=str(path), field="header", offset=facts.pop("offset", 8), **facts)

    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise bad(f"not a JSON object: {error}") from error
    if len(fields) > MAX_TENSORS:
        raise bad("too many tensors", expected=f"≤ {MAX_TENSORS}", found=len(fields))
    metadata = _metadata(fields.pop("__metadata__", None), bad)
    entries = {}
    decoder = msgspec.json.Decoder(_Entry)
    for name, field in fields.items():
        try:
            entries[name] = decoder.decode(field)
        except (msgspec.DecodeError, RecursionError) as error:
            raise SourceError(f"bad header entry: {error}", file=str(path), tensor=name, field="header") from error
    _refuse_duplicates(raw, entries, bad)
    return entries, metadata


def _metadata(raw: msgspec.Raw | None, bad: Any) -> dict[str, str]:
    if raw is None:
        return {}
    try:
        return msgspec.json.decode(raw, type=dict[str, str])
    except (msgspec.DecodeError, RecursionError) as error:
        raise bad(f"__metadata__ must map strings to strings: {error}") from error


def _refuse_duplicates(raw: bytes, entries: dict[str, _Entry], bad: Any) -> None:
    """Two readers could disagree on a repeated key, so none may repeat.

    Without backslashes a key has one spelling, and inside a string a quote would need one: then counting the quoted
    field names is exact. With backslashes, or tensors called like a field, a slower parser looks at every pair.
    """
    names = ('"dtype"', '"shape"', '"data_offsets"')
    plain = b"\\" not in raw and b"__metadata__" not in raw and not any(name.strip('"') in entries for name in names)
    if plain and all(raw.count(name.encode()) == len(entries) for name in names):
        return
    if len(raw) > MAX_SLOW_HEADER:
        # Ordinary files keep a tiny __metadata__ object and no escapes; count around the object.
        start, end = raw.find(b'"__metadata__"'), -1
        end = raw.find(b"}", start) if start >= 0 else -1
        rest = raw[:start] + raw[end + 1 :] if end > 0 else raw
        if b"\\" in raw or any(rest.count(name.encode()) != len(entries) for name in names):
            raise bad("duplicate or escaped keys in a large header")
        return

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise bad("duplicate key", found=twice)
        return seen

    try:
        json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, SourceError):
            raise
        raise bad(f"not JSON: {error}") from error


def _place(entries: dict[str, _Entry], file: FileId, start: int) -> dict[str, SourceTensor]:
    """Check names, types, shapes and that the ranges cover the data exactly; tensors in the order of their bytes."""
    tensors = {}
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].data_offsets, item[0])):
        begin, end = entry.data_offsets

        def bad(message: str, name: str = name, begin: int = begin, **facts: Any) -> SourceError:
            return SourceError(message, file=file.path, tensor=name, offset=start + max(begin, 0), **facts)

        check_name(name, file.path)
        if entry.dtype not in SAFETENSORS:
            raise bad("unknown dtype", field="dtype", found=entry.dtype)
        dtype, bits = SAFETENSORS[entry.dtype]
        if dtype not in TABLE:  # only packed or already quantized checkpoints use it: the messages name it as they do
            dtype = entry.dtype
        if begin != position or end < begin:
            what = "overlaps the tensor before it" if begin < position else "leaves a hole before it"
            message = what if end >= begin else "ends before it begins"
            raise bad(message, field="data_offsets", expected=position, found=[begin, end])
        if start + end > file.size:
            raise bad(
                "runs past the end of the file", field="data_offsets", expected=f"≤ {file.size - start}", found=end
            )
        elements = check_shape(tuple(entry.shape), bad)
        if elements * bits != (end - begin) * 8:
            raise bad("shape and range disagree", field="data_offsets", expected=elements * bits / 8, found=end - begin)
        tensors[name] = SourceTensor(name, dtype, tuple(entry.shape), file, start + begin, end - begin)
        position = end
    if start + position != file.size:
        raise SourceError(
            "bytes after the last tensor",
            file=file.path,
            offset=start + position,
            expected=start + position,
            found=file.size,
        )
    return tensors


def check_shape(shape: tuple[int, ...], bad: Any) -> int:
    """The number of elements, within the limits of the container; `bad` makes the error."""
    if len(shape) > MAX_RANK:
        raise bad("too many dimensions", field="shape", expected=f"≤ {MAX_RANK}", found=len(shape))
    elements = 1
    for dim in shape:
        if not 0 <= dim <= MAX_DIM:
            raise bad("dimension out of range", field="shape", expected=f"0 to {MAX_DIM}", found=dim)
        elements *= max(dim, 1)  # a zero must not hide an absurd partner
        if elements > MAX_ELEMENTS:
            raise bad("too many elements", field="shape", expected=f"≤ {MAX_ELEMENTS}", found=list(shape))
    return 0 if 0 in shape else elements


def check_name(name: str, path: str) -> None:
    """Names end up in our file, in messages and in exported files: printable, no path tricks, at most 512 bytes."""
    parts = name.split("/")
    if not name or len(name.encode("utf-8", "replace")) > MAX_NAME:
        raise SourceError("tensor name must have 1 to 512 bytes", file=path, field="name", found=name[:64])
    if not name.isascii() or not name.isprintable() or "\\" in name or any(p in ("", ".", "..") for p in parts):
        raise SourceError(
            "tensor name with control characters, non-ASCII or path parts", file=path, field="name", found=name
        )
