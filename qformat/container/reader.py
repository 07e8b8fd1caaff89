"""The reader: `open` a file or a set of shards; its records and bytes are there when asked for, nothing before."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from qformat.container import shards, verify
from qformat.container.constants import LIMITS, MAJOR, NAN_BITS, Kind, Limits
from qformat.container.identity import content_digest
from qformat.container.index import read_index
from qformat.container.part import Part
from qformat.container.source import open_source
from qformat.dtypes import NAME_OF_ID
from qformat.errors import QFormatError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Record:
    """One row of the table. An alias has the numbers of its target, and `target` says which that is."""

    name: str
    kind: str  # "tensor", "alias" or "attachment"; "unknown" for an optional kind of a later version
    scheme: int  # number in Container.schemes; −1 without one
    dtype: str  # the source's dtype; "" without one
    shape: tuple[int, ...]
    parameters: tuple[int, int, int, int]
    order: int
    offset: int  # in the file that holds it
    length: int  # logical bytes of the extent
    stored: int  # bytes in the file
    digest: bytes  # BLAKE3 of the stored bytes
    error: float | None
    max_error: float | None
    shard: int  # 0 in a single file, else the shard's number from 1
    target: str | None


_KINDS = {int(Kind.TENSOR): "tensor", int(Kind.ALIAS): "alias", int(Kind.ATTACHMENT): "attachment"}


class Container:
    """An open container, a lazy mapping from names to bytes; made by `qformat.container.open`, picklable by path."""

    def __init__(self, path: str | os.PathLike[str], limits: Limits = LIMITS) -> None:
        self.path = os.fspath(path)
        self._limits = limits
        source = open_source(self.path)
        try:
            index = read_index(source, limits)
            self._head = Part(source, index, 0, 0)
            self._parts = shards.open_parts(self._head, limits) if index.document.shards else [self._head]
        except BaseException:
            source.close()
            raise
        self.size = sum(part.source.size for part in {id(p): p for p in (self._head, *self._parts)}.values())
        self.version = (MAJOR, index.minor)
        self.digest = index.digest.hex()
        self.schemes: list[dict[str, Any]] = [s for part in self._parts for s in part.index.document.schemes]
        self.metadata: dict[str, Any] = index.document.metadata
        self.attachments: Mapping[str, bytes] = Attachments(self._head)

    def __len__(self) -> int:
        return sum(part.index.tensors for part in self._parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def names(self) -> list[str]:
        """Names of tensors and aliases in file order, which is the order of execution."""
        return list(self._names)

    @cached_property
    def _names(self) -> list[str]:
        return [name for part in self._parts for name in part.names]

    @cached_property
    def content_digest(self) -> str:
        """The identity of names, shapes, schemes and tensor bytes alone; survives edits of the metadata."""
        return content_digest(self._parts)

    def record(self, name: str) -> Record:
        """The record of a tensor or alias; KeyError when there is none."""
        part, i = self._locate(name)
        row = part.index.records[i]
        source = part.index.records[part.resolve(i)]
        rank = min(int(source["rank"]), 8)
        return Record(
            name=name,
            kind=_KINDS.get(int(row["kind"]), "unknown"),
            scheme=part.first_scheme + int(source["scheme"]) if source["kind"] == Kind.TENSOR else -1,
            dtype=dtype_name(int(source["dtype"])),
            shape=tuple(source["shape"][:rank].tolist()),
            parameters=tuple(source["parameters"].tolist()),
            order=int(row["order"]),
            offset=int(source["offset"]),
            length=int(source["length"]),
            stored=int(source["stored"]),
            digest=source["digest"].tobytes(),
            error=_measured(source["error"]),
            max_error=_measured(source["max_error"]),
            shard=part.number,
            target=part.index.name(part.resolve(i)) if row["kind"] == Kind.ALIAS else None,
        )

    def columns(self) -> dict[str, Any]:
        """Every record at once, in the order of `names()`: name → list or array, aliases with their target's numbers.

        `name` (list of str), `kind` u8, `alias` bool, `scheme` int64, `dtype` (ids, see qformat.dtypes), `rank`,
        `shape` (n, 8), `parameters` (n, 4), `offset`, `length`, `stored`, `error`, `max_error` (NaN: not measured),
        `shard`.
        """
        fields = ("dtype", "rank", "shape", "parameters", "offset", "length", "stored", "error", "max_error")
        columns: dict[str, list[Any]] = {field: [] for field in ("kind", "alias", "scheme", "shard", *fields)}
        for part in self._parts:
            rows = part.index.records[part.sequence]
            alias = rows["kind"] == Kind.ALIAS
            source = part.index.records[np.where(alias, rows["target"], part.sequence)]
            tensor = source["kind"] == Kind.TENSOR
            columns["kind"].append(rows["kind"])
            columns["alias"].append(alias)
            columns["scheme"].append(np.where(tensor, source["scheme"].astype(np.int64) + part.first_scheme, -1))
            columns["shard"].append(np.full(len(rows), part.number, np.uint32))
            for field in fields:
                columns[field].append(source[field])
        return {"name": self._names, **{field: np.concatenate(column) for field, column in columns.items()}}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Logical bytes start…stop of a tensor's extent as read-only uint8: a view of the mapping when stored raw.

        The chunks touched are checked against their hashes the first time. IntegrityError names the damaged chunk,
        ChangedError a file that is no longer what was opened; KeyError without such a name, ValueError after close.
        """
        part, i = self._locate(name)
        return part.read(i, start, stop)

    def prefetch(self, *names: str) -> None:
        """Ask the kernel to read these tensors' bytes ahead; returns at once."""
        for name in names:
            part, i = self._locate(name)
            row = part.index.records[part.resolve(i)]
            part.source.advise(int(row["offset"]), int(row["stored"]))

    @contextlib.contextmanager
    def guard(self, name: str | None = None) -> Iterator[None]:
        """Surround work on views of the mapping: ChangedError before or after it when a file changed meanwhile.

        Results computed inside are only to be used after the block ended without an error. With `name`, only the file
        that holds that tensor is looked at.
        """
        parts = self._parts if name is None else [self._locate(name)[0]]
        with contextlib.ExitStack() as stack:
            for part in parts:
                stack.enter_context(part.source.guard())
            yield

    def verify(
        self,
        names: Iterable[str] | None = None,
        workers: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[QFormatError]:
        """Check every stored byte (or those of `names`) and return what is wrong, one error a damaged tensor or gap.

        `progress` is called with the number of bytes done since the last call. Reads go through memory of their own,
        so a file that shrinks meanwhile raises ChangedError.
        """
        wanted = None if names is None else [self._locate(name) for name in names]
        return verify.verify(self._head, self._parts, wanted, workers, progress)

    def close(self) -> None:
        """Close every file; arrays that were read stay valid, later reads raise ValueError."""
        for part in (self._head, *self._parts):
            part.source.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Container, (self.path, self._limits)

    def __repr__(self) -> str:
        return f"<Container {self.path!r}: {len(self)} tensors>"

    def _find(self, name: str) -> tuple[Part, int] | None:
        for part in self._parts:
            i = part.index.find(name)
            if i >= 0:
                return part, i
        return None

    def _locate(self, name: str) -> tuple[Part, int]:
        found = self._find(name)
        if found is None:
            raise KeyError(name)
        return found


class Attachments(Mapping[str, bytes]):
    """The files that came with the model, by name, in file order; read and checked when asked for."""

    def __init__(self, part: Part) -> None:
        self._part = part
        index = part.index
        rows = [i for i in range(index.tensors, len(index.records))]
        rows.sort(key=lambda i: int(index.records["order"][i]))
        self._names = [index.name(i) for i in rows]

    def __getitem__(self, name: str) -> bytes:
        i = self._part.index.find(name, attachment=True)
        if i < 0:
            raise KeyError(name)
        return self._part.read(i, 0, None).tobytes()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._part.index.find(name, attachment=True) >= 0

    def size(self, name: str) -> int:
        """Bytes of an attachment, without reading it."""
        i = self._part.index.find(name, attachment=True)
        if i < 0:
            raise KeyError(name)
        return int(self._part.index.records["length"][i])


def open(path: str | os.PathLike[str], *, limits: Limits = LIMITS) -> Container:
    """Open a `.qf` file, a set of shards by its manifest, or either behind an fsspec URL.

    Raises InvalidFileError, LimitError, IntegrityError or UnsupportedError when the file is not sound, OSError when
    it cannot be opened.
    """
    return Container(path, limits)


def dtype_name(number: int) -> str:
    """The dtype's name; "" for 0, and "unknown-N" for one that a later version added."""
    return NAME_OF_ID.get(number, f"unknown-{number}") if number else ""


def _measured(value: Any) -> float | None:
    bits = int(np.float64(value).view(np.uint64))
    return None if bits == NAN_BITS else float(value)
