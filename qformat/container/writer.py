"""Writing a file in one pass, without seeking: preamble, extents, index, trailer.

    with open("x.qf", "wb") as file:
        writer = Writer(file)
        bytes_ = {"coding": {"coding": "dense", "dtype": "uint8"}}
        writer.tensor("w", scheme=bytes_, dtype="uint8", shape=(3,), length=3, data=[b"abc"])
        writer.attachment("config.json", b"{}")
        digest = writer.finish({"general.name": "example"})

The writer is a small state machine: extents may be added until `finish`, and a call that fails leaves it unusable.
What it knows of each finished extent is an `Entry`, plain data that a journal can keep; a writer made from the entries
of an earlier one goes on where that one stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import blake3
import msgspec
import numpy as np

from qformat.container import chunks
from qformat.container.assemble import Entry, build_index, preamble, trailer
from qformat.container.records import CHUNK, LIMITS, PARAMETERS, RANK, Kind, align, extent_offset
from qformat.dtypes import TABLE
from qformat.errors import OutputError, RecipeError

__all__ = ["Entry", "Writer", "check_name"]


class Writer:
    """Appends extents to `file`, a binary file object at its beginning (with `entries`: at the end of the last).

    Raises:
        OutputError: a call out of order, or one after a failure.
        RecipeError: a name, shape or dtype that the format does not allow.
        OSError: what the file raises.
    """

    def __init__(self, file: BinaryIO, *, entries: Sequence[Entry] = ()) -> None:
        self._file = file
        self._entries: dict[tuple[bool, str], Entry] = {entry.key: entry for entry in entries}
        self._end = max((entry.end for entry in entries), default=0)
        self._state = "open"
        if not entries:
            self._put(preamble())

    @property
    def end(self) -> int:
        """Bytes written so far."""
        return self._end

    @property
    def finished(self) -> bool:
        """Whether index and trailer are written."""
        return self._state == "finished"

    def tensor(
        self,
        name: str,
        *,
        scheme: Mapping[str, Any],
        dtype: str,
        shape: Sequence[int],
        length: int,
        data: Iterable[Any],
        parameters: Sequence[int] = (),
        compression: str | None = None,
        itemsize: int = 1,
        error: float | None = None,
        max_error: float | None = None,
    ) -> Entry:
        """Append a tensor: `length` logical bytes that `data` yields in pieces of any size.

        `compression` is None, "zstd" or "split" (the bytes of each item of `itemsize` 2 or 4 apart, then zstd).
        """
        if dtype not in TABLE:
            raise RecipeError("unknown dtype", tensor=name, field="dtype", expected=", ".join(TABLE), found=dtype)
        if len(shape) > RANK or len(parameters) > PARAMETERS or any(not 0 <= d <= LIMITS.dimension for d in shape):
            raise RecipeError("shape or parameters out of range", tensor=name, field="shape", found=tuple(shape))
        about = {"scheme": dict(scheme), "dtype": dtype, "shape": tuple(int(d) for d in shape)}
        errors = {"error": error, "max_error": max_error}
        padded = (*map(int, parameters), *[0] * (PARAMETERS - len(parameters)))
        return self._extent(
            name, "tensor", length, data, compression, itemsize, {**about, **errors, "parameters": padded}
        )

    def attachment(self, name: str, data: bytes) -> Entry:
        """Append a file that belongs to the model, under a relative path."""
        about = {"scheme": None, "dtype": "uint8", "shape": (len(data),), "parameters": (0,) * PARAMETERS}
        return self._extent(name, "attachment", len(data), [data], None, 1, about)

    def alias(self, name: str, target: str) -> Entry:
        """A tensor that is another one, as tied weights are: no bytes of its own."""
        self._ready(name, "alias")
        of = self._entries.get((False, target))
        if of is None or of.kind != "tensor":
            raise RecipeError("an alias needs a tensor that is there", tensor=name, field="target", found=target)
        return self._note(msgspec.structs.replace(of, name=name, kind="alias", target=target))

    def finish(self, metadata: Mapping[str, Any], *, shards: Sequence[Mapping[str, Any]] | None = None) -> str:
        """Write index and trailer; the file is complete (but not synced). Returns its digest in hex."""
        if self._state != "open":
            raise OutputError(f"finish on a writer that is {self._state}")
        document: dict[str, Any] = {"required": [], "optional": [], "metadata": dict(metadata)}
        if shards is not None:
            document |= {"required": ["shards"], "shards": list(shards)}
        index = build_index(list(self._entries.values()), document)
        self._put(bytes(align(self._end) - self._end))
        digest = blake3.blake3(index).digest()
        offset = self._end
        self._put(index)
        self._put(trailer(offset, len(index), digest))
        self._state = "finished"
        return digest.hex()

    def _ready(self, name: str, kind: Kind) -> None:
        if self._state != "open":
            raise OutputError(f"{kind} on a writer that is {self._state}", tensor=name)
        check_name(name)
        if (kind == "attachment", name) in self._entries:
            raise RecipeError("the name is taken", tensor=name, field="name")

    def _extent(
        self,
        name: str,
        kind: Kind,
        length: int,
        data: Iterable[Any],
        compression: str | None,
        itemsize: int,
        about: dict[str, Any],
    ) -> Entry:
        self._ready(name, kind)
        self._state = "broken"  # until this call has succeeded
        offset = extent_offset(self._end, length)
        self._put(bytes(offset - self._end))
        digest, rows, total = blake3.blake3(max_threads=blake3.blake3.AUTO), [], 0
        for raw in _chunked(data):
            total += raw.size
            codec, stored = chunks.encode(raw, compression, itemsize)
            digest.update(stored)
            rows.append((len(stored), codec, chunks.checksum(stored)))
            self._put(stored)
        if total != length:
            raise OutputError("data has another length", tensor=name, field="length", expected=length, found=total)
        self._state = "open"
        size = sum(row[0] for row in rows)
        return self._note(
            Entry(
                name=name,
                kind=kind,
                offset=offset,
                length=length,
                stored=size,
                digest=digest.digest(),
                chunks=rows,
                **about,
            )
        )

    def _note(self, entry: Entry) -> Entry:
        self._entries[entry.key] = entry
        return entry

    def _put(self, data: Any) -> None:
        if len(data):
            self._file.write(data)
            self._end += len(data)


def _chunked(data: Iterable[Any]) -> Iterable[np.ndarray[Any, Any]]:
    """Pieces of any size as chunks of exactly CHUNK bytes, the last one shorter."""
    held: list[np.ndarray[Any, Any]] = []
    size = 0
    for piece in data:
        raw = (
            np.frombuffer(piece, np.uint8)
            if not isinstance(piece, np.ndarray)
            else np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
        )
        start = 0
        while raw.size - start >= CHUNK - size:
            cut = raw[start : start + CHUNK - size]
            yield cut if not held else np.concatenate([*held, cut])
            start, held, size = start + CHUNK - size, [], 0
        if start < raw.size:
            held.append(raw[start:].copy() if raw.size - start < CHUNK else raw[start:])
            size += raw.size - start
    if size:
        yield held[0] if len(held) == 1 else np.concatenate(held)


def check_name(name: str) -> None:
    """RecipeError unless the format allows the name: 1–512 printable ASCII bytes, a plain relative path."""
    plain = (
        name.isascii()
        and name.isprintable()
        and "\\" not in name
        and 1 <= len(name) <= LIMITS.name
        and name == name.strip()
    )
    if not plain or name in (".", "..") or ("/" in name and any(part in ("", ".", "..") for part in name.split("/"))):
        raise RecipeError("not a name that a file can hold", tensor=name[:80], field="name")
