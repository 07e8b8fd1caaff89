"""The header of a GGUF file (versions 2 and 3, little-endian), read strictly and within bounds.

Layout (ggml docs/gguf.md): magic, u32 version, i64 number of tensors, i64 number of key-values; the key-values; for
each tensor a name, its dimensions (innermost first), type and offset; padding; the tensors' bytes in that order.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from qformat.errors import InvalidFileError, LimitError, UnsupportedError
from qformat.report.byte_source import ByteSource
from qformat.report.gguf_types import STORED, TYPES
from qformat.report.overview import Overview, Row

MAGIC = b"GGUF"
MAX_HEADER = 256 << 20
MAX_TENSORS = 500_000
MAX_KEYS = 65_536
MAX_STRING = 1 << 20  # longer values are measured, not kept
MAX_ARRAY = 32  # longer arrays likewise
MAX_DIM = 1 << 40

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_NAMES = {
    0: "uint8",
    1: "int8",
    2: "uint16",
    3: "int16",
    4: "uint32",
    5: "int32",
    6: "float32",
    7: "bool",
    8: "string",
    10: "uint64",
    11: "int64",
    12: "float64",
}
_STRING, _ARRAY = 8, 9


class Cursor:
    """Reads forward through a source by a window that grows: a header of unknown length costs few requests."""

    def __init__(self, source: ByteSource) -> None:
        self.source, self.position = source, 0
        self._window, self._start, self._step = b"", 0, 1 << 18

    def _fill(self, length: int, field: str) -> int:
        """Have `length` bytes at the position in the window; returns where they start in it."""
        if self.position + length > min(self.source.size, MAX_HEADER):
            kind, limit = (LimitError, MAX_HEADER) if self.source.size > MAX_HEADER else (InvalidFileError, None)
            raise kind(
                "the header is longer than allowed" if limit else "the file ends inside its header",
                file=self.source.name,
                field=field,
                offset=self.position,
                expected=f"{length} bytes",
                found=self.source.size - self.position,
            )
        inside = self.position - self._start
        if inside < 0 or inside + length > len(self._window):
            kept = self._window[inside:] if 0 <= inside <= len(self._window) else b""
            stop = min(self.position + max(length, self._step), self.source.size)
            self._window = kept + self.source.read(self.position + len(kept), stop)
            self._start, self._step = self.position, min(self._step * 2, 1 << 24)
            inside = 0
        return inside

    def take(self, length: int, field: str) -> bytes:
        """The next `length` bytes."""
        inside = self._fill(length, field)
        self.position += length
        return self._window[inside : inside + length]

    def skip(self, length: int, field: str) -> None:
        """Go on by `length` bytes without reading them."""
        if self.position + length > self.source.size:
            self._fill(length, field)
        self.position += length

    def number(self, code: str, field: str) -> Any:
        """One little-endian scalar of struct's type `code`."""
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), field))[0]

    def string(self, field: str, limit: int) -> str:
        """A string of at most `limit` bytes."""
        start = self.position
        length = self.number("Q", field)
        if length > limit:
            raise LimitError(
                "string too long", file=self.source.name, field=field, offset=start, expected=f"≤ {limit}", found=length
            )
        try:
            return self.take(length, field).decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidFileError("not UTF-8", file=self.source.name, field=field, offset=start) from None


def overview(source: ByteSource) -> Overview:
    """The overview of a GGUF file."""
    cursor = Cursor(source)
    if (magic := cursor.take(4, "magic")) != MAGIC:
        raise InvalidFileError(
            "not a GGUF file", file=source.name, field="magic", offset=0, expected=MAGIC, found=magic
        )
    version = cursor.number("I", "version")
    if version not in (2, 3):
        reason = "big-endian GGUF is not read" if version & 0xFFFF == 0 else "this version of GGUF is not read"
        raise UnsupportedError(reason, file=source.name, field="version", offset=4, expected="2, 3", found=version)
    n_tensors = _bounded(cursor, "number of tensors", MAX_TENSORS)
    n_keys = _bounded(cursor, "number of keys", MAX_KEYS)
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        key = cursor.string("key", 65_535)
        if key in metadata:
            raise InvalidFileError("a key occurs twice", file=source.name, field=key, offset=cursor.position)
        metadata[key] = _value(cursor, key)
    placed = [_tensor(cursor) for _ in range(n_tensors)]
    _check_places(cursor, placed, metadata.get("general.alignment", 32))
    return Overview(source.name, "gguf", str(version), source.size, [row for row, _ in placed], metadata)


def _bounded(cursor: Cursor, field: str, limit: int) -> int:
    start = cursor.position
    number: int = cursor.number("q", field)
    if not 0 <= number <= limit:
        raise LimitError(
            "out of range", file=cursor.source.name, field=field, offset=start, expected=f"0 … {limit}", found=number
        )
    return number


def _value(cursor: Cursor, key: str) -> Any:
    """A value: scalars, strings and short arrays as they are, longer ones as a note of type and count."""
    kind = cursor.number("I", key)
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind], key)
    if kind == _STRING:
        return _text(cursor, key)
    if kind != _ARRAY:
        raise InvalidFileError(
            "unknown type of value",
            file=cursor.source.name,
            field=key,
            offset=cursor.position - 4,
            expected="0 … 12",
            found=kind,
        )
    element = cursor.number("I", key)
    count = cursor.number("Q", key)
    if element not in _NAMES:
        raise InvalidFileError(
            "unknown type of array", file=cursor.source.name, field=key, offset=cursor.position - 12, found=element
        )
    if count <= MAX_ARRAY:
        return [
            _text(cursor, key) if element == _STRING else cursor.number(_SCALARS[element], key) for _ in range(count)
        ]
    if element == _STRING:
        if count * 8 > cursor.source.size - cursor.position:  # before a loop that long
            raise InvalidFileError(
                "the array does not fit in the file",
                file=cursor.source.name,
                field=key,
                offset=cursor.position - 8,
                found=count,
            )
        for _ in range(count):
            cursor.skip(cursor.number("Q", key), key)
    else:
        cursor.skip(count * struct.calcsize("<" + _SCALARS[element]), key)
    return {"array": _NAMES[element], "count": count}


def _text(cursor: Cursor, key: str) -> str | dict[str, int | str]:
    length = cursor.number("Q", key)
    if length > MAX_STRING:
        cursor.skip(length, key)
        return {"string": "too long to keep", "bytes": length}
    cursor.position -= 8
    return cursor.string(key, MAX_STRING)


def _tensor(cursor: Cursor) -> tuple[Row, int]:
    """A tensor's row and its offset in the data."""
    start, file = cursor.position, cursor.source.name
    name = cursor.string("tensor name", 1024)
    rank = cursor.number("I", "rank")
    if rank > 8:
        raise LimitError("too many dimensions", file=file, tensor=name, field="rank", offset=start, found=rank)
    dims = [cursor.number("q", "shape") for _ in range(rank)]
    kind, offset = cursor.number("I", "type"), cursor.number("Q", "offset")
    if any(not 0 <= dim <= MAX_DIM for dim in dims):
        raise InvalidFileError(
            "a dimension is out of range", file=file, tensor=name, field="shape", offset=start, found=dims
        )
    if kind not in TYPES:
        raise UnsupportedError("unknown ggml type", file=file, tensor=name, field="type", offset=start, found=kind)
    block = TYPES[kind]
    inner = dims[0] if dims else 1
    if inner % block.elements:
        raise InvalidFileError(
            "rows are not whole blocks",
            file=file,
            tensor=name,
            field="shape",
            offset=start,
            expected=f"a multiple of {block.elements}",
            found=inner,
        )
    weights = math.prod(dims)
    row = Row(name, tuple(reversed(dims)), weights, weights // block.elements * block.nbytes, STORED[kind])
    return row, offset


def _check_places(cursor: Cursor, placed: list[tuple[Row, int]], alignment: object) -> None:
    """Tensors lie one after the other, each padded to the alignment, and end inside the file."""
    file, size = cursor.source.name, cursor.source.size
    if not isinstance(alignment, int) or isinstance(alignment, bool) or alignment <= 0 or alignment & (alignment - 1):
        raise InvalidFileError("not a power of two", file=file, field="general.alignment", found=alignment)
    names = {row.name for row, _ in placed}
    if len(names) != len(placed):
        raise InvalidFileError("a tensor name occurs twice", file=file)
    start = -(-cursor.position // alignment) * alignment
    expected = 0
    for row, offset in placed:
        if offset != expected:
            raise InvalidFileError(
                "not where the tensor before it ends",
                file=file,
                tensor=row.name,
                field="offset",
                expected=expected,
                found=offset,
            )
        if start + offset + row.nbytes > size:
            raise InvalidFileError(
                "the tensor goes beyond the end of the file",
                file=file,
                tensor=row.name,
                expected=f"{start + offset + row.nbytes} bytes",
                found=size,
            )
        expected += -(-row.nbytes // alignment) * alignment
