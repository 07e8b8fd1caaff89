"""The header of a safetensors file, read strictly and within bounds.

Layout (the README of safetensors, "Format"): u64 little-endian header length, that many bytes of JSON, then the
tensors' bytes, which the entries must cover without hole, overlap or rest.
"""

from __future__ import annotations

import math
import re

from qformat.dtypes import SAFETENSORS
from qformat.errors import InvalidFileError, LimitError
from qformat.report.byte_source import ByteSource
from qformat.report.overview import Overview, Row, Stored

MAX_HEADER = 100_000_000  # the format's own limit
MAX_TENSORS = 500_000
MAX_DIM = 1 << 40
MAX_RANK = 64
FIRST_READ = 1 << 16  # enough for most headers, so that most need one read only

STORED = {name: Stored(ours, ours, "dense", None, None, None, ours) for name, (ours, _) in SAFETENSORS.items()}


def looks_like_safetensors(source: ByteSource) -> bool:
    """Whether the first nine bytes are a header length that fits and the brace that begins the header."""
    head = source.read(0, min(source.size, 9))
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= source.size - 8


def read_header(source: ByteSource) -> tuple[list[Row], dict[str, str]]:
    """The tensors, in the order of their bytes, and the `__metadata__` of a safetensors file."""
    first = source.read(0, min(source.size, FIRST_READ))
    if len(first) < 8:
        raise InvalidFileError("too short", file=source.name, field="header length", expected=8, found=len(first))
    length = int.from_bytes(first[:8], "little")
    if length > MAX_HEADER:
        raise LimitError("too long", file=source.name, field="header length", expected=f"≤ {MAX_HEADER}", found=length)
    if length > source.size - 8:
        raise InvalidFileError(
            "the header does not fit in the file",
            file=source.name,
            field="header length",
            offset=0,
            expected=f"≤ {source.size - 8}",
            found=length,
        )
    header = first[8 : 8 + length]
    if len(header) < length:
        header += source.read(len(first), 8 + length)
    return _parse(header, source.name, source.size - 8 - length)


def _parse(header: bytes, file: str, data_size: int) -> tuple[list[Row], dict[str, str]]:
    import msgspec

    class Entry(msgspec.Struct, forbid_unknown_fields=True):
        dtype: str
        shape: list[int]
        data_offsets: tuple[int, int]

    # counted before a Python object is built for each: a bomb of small entries stays bytes
    openings = sum(1 for _ in re.finditer(rb'"\s*:\s*\{', header))
    if openings > MAX_TENSORS:
        raise LimitError("too many tensors", file=file, field="header", expected=f"≤ {MAX_TENSORS}", found=openings)
    try:
        entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        raw = entries.pop("__metadata__", None)
        metadata = msgspec.json.decode(raw, type=dict[str, str]) if raw is not None else {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidFileError(f"not a safetensors header: {error}", file=file, field="header", offset=8) from None
    # an array follows the field only: a tensor of that name is an object, and a metadata entry a string
    if sum(1 for _ in re.finditer(rb'"data_offsets"\s*:\s*\[', header)) > len(entries):
        raise InvalidFileError("a tensor name occurs twice", file=file, field="header", offset=8)
    decode = msgspec.json.Decoder(Entry).decode
    placed: list[tuple[int, int, Row]] = []
    for name, raw_entry in entries.items():
        try:
            entry = decode(raw_entry)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidFileError(f"not a tensor entry: {error}", file=file, tensor=name) from None
        begin, end = entry.data_offsets
        row = _row(name, entry.dtype, entry.shape, begin, end, file)
        placed.append((begin, end, row))
    placed.sort(key=lambda item: item[:2])
    _check_cover(placed, data_size, file)
    return [row for _, _, row in placed], metadata


def _row(name: str, dtype: str, shape: list[int], begin: int, end: int, file: str) -> Row:
    if dtype not in SAFETENSORS:
        raise InvalidFileError("unknown dtype", file=file, tensor=name, expected=", ".join(SAFETENSORS), found=dtype)
    if len(shape) > MAX_RANK:
        raise LimitError("too many dimensions", file=file, tensor=name, field="shape", found=len(shape))
    if any(not 0 <= dim <= MAX_DIM for dim in shape):
        raise InvalidFileError("a dimension is out of range", file=file, tensor=name, field="shape", found=shape)
    bits = SAFETENSORS[dtype][1]
    weights = math.prod(shape)
    n_bits = weights * bits
    if n_bits % 8 or not 0 <= begin <= end or end - begin != n_bits // 8:
        raise InvalidFileError(
            "shape and data_offsets disagree",
            file=file,
            tensor=name,
            field="data_offsets",
            expected=f"{n_bits / 8:g} bytes",
            found=f"[{begin}, {end}]",
        )
    return Row(name, tuple(shape), weights, end - begin, STORED[dtype])


def _check_cover(placed: list[tuple[int, int, Row]], data_size: int, file: str) -> None:
    """Tensors lie one after the other from the first data byte to the last."""
    position = 0
    for begin, end, row in placed:
        if begin != position:
            what = "overlaps the tensor before it" if begin < position else "leaves a hole before it"
            raise InvalidFileError(
                what, file=file, tensor=row.name, field="data_offsets", expected=position, found=begin
            )
        position = end
    if position != data_size:
        raise InvalidFileError("the tensors do not cover the data", file=file, expected=data_size, found=position)


def overview(source: ByteSource) -> Overview:
    """The overview of one safetensors file."""
    rows, metadata = read_header(source)
    return Overview(source.name, "safetensors", None, source.size, rows, metadata)
