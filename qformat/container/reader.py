"""Reading: a mapping of names to bytes, checked before they are believed.

`open` reads trailer and index, and validates all of it. Extents are views of the mapping; the chunks that a call
touches are hashed the first time that they are touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray

from qformat import dtypes
from qformat.container import strictjson
from qformat.container.part import Bytes, Part
from qformat.container.records import KINDS, LIMITS, NONE, RANK, Limits, Record
from qformat.container.shards import open_shards
from qformat.container.sources import open_source
from qformat.errors import QFormatError


class Container(Mapping[str, Record]):
    """The tensors of a file or of a set of shards: names in execution order, to records.

    Attributes:
        path: what was opened.
        size: bytes of all files together.
        version: (major, minor).
        digest: BLAKE3 of the index in hex: covers every byte.
        schemes: what the records' `scheme` numbers mean, as JSON objects.
        metadata: flat keys to JSON values.
    """

    def __init__(self, path: str | os.PathLike[str], limits: Limits = LIMITS) -> None:
        self.path = os.fspath(path)
        first = Part(open_source(path), limits)
        self.parts = [first]
        try:
            self.parts += open_shards(first, limits)
        except BaseException:
            self.close()
            raise
        self.version, self.digest = first.version, first.digest
        self.metadata: dict[str, Any] = first.index.document["metadata"]
        self.size = sum(part.source.size for part in self.parts)
        self.schemes: list[dict[str, Any]] = []
        self._scheme_base: list[int] = []
        for part in self.parts:
            self._scheme_base.append(len(self.schemes))
            self.schemes += part.index.document["schemes"]
        self.attachments: Mapping[str, bytes] = Attachments(self)

    # -- names ---------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return sum(part.tensors for part in self.parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def __getitem__(self, name: str) -> Record:
        return self.record(name)

    def names(self) -> list[str]:
        """Tensors and aliases in execution order."""
        found = []
        for part in self.parts:
            rows = part.index.order[part.index.order < part.tensors]
            found += part.names.text(rows)
        return found

    def _find(self, name: str, attached: bool = False) -> tuple[int, int] | None:
        try:
            key = name.encode("ascii")
        except UnicodeEncodeError:
            return None
        for number, part in enumerate(self.parts):
            row = part.find(key, part.tensors, len(part.names)) if attached else part.find(key, 0, part.tensors)
            if row is not None:
                return number, row
        return None

    def _locate(self, name: str) -> tuple[int, int]:
        found = self._find(name)
        if found is None:
            raise KeyError(name)
        return found

    def record(self, name: str) -> Record:
        """What the index says of a tensor; KeyError if there is none of that name."""
        number, row = self._locate(name)
        part = self.parts[number]
        r = part.index.records[row]
        target = None if int(r["target"]) == NONE else part.names[int(r["target"])].decode()
        error, most = float(r["error"]), float(r["max_error"])
        return Record(
            name=name,
            kind=KINDS[int(r["kind"])],
            scheme=int(r["scheme"]) + self._scheme_base[number],
            dtype=dtypes.NAME_OF_ID[int(r["dtype"])],
            shape=tuple(r["shape"][: int(r["rank"])].tolist()),
            parameters=tuple(r["parameters"].tolist()),
            order=int(r["order"]),
            offset=int(r["offset"]),
            length=int(r["length"]),
            stored=int(r["stored"]),
            digest=r["digest"].tobytes(),
            error=None if error != error else error,
            max_error=None if most != most else most,
            shard=number,
            target=target,
        )

    def columns(self) -> list[tuple[NDArray[Any], Sequence[str], int]]:
        """For lists of many tensors: (records, names, base of the scheme numbers) of each file, in execution order."""
        found: list[tuple[NDArray[Any], Sequence[str], int]] = []
        for part, base in zip(self.parts, self._scheme_base, strict=True):
            rows = part.index.order[part.index.order < part.tensors]
            found.append((part.index.records.whole()[rows], part.names.text(rows), base))
        return found

    @property
    def content_digest(self) -> str:
        """BLAKE3 in hex over names, shapes, schemes and tensor bytes: the same after any edit of metadata."""
        schemes = [strictjson.dumps(scheme).decode() for scheme in self.schemes]
        lines: list[tuple[str, str]] = []
        for part, base in zip(self.parts, self._scheme_base, strict=True):
            records = part.index.records.whole()[: part.tensors]
            names, about = part.names.text(np.arange(part.tensors)), _about(records, schemes[base:])
            digests = records["digest"].tobytes().hex()
            quoted = [name.replace('"', '\\"') for name in names]  # all that JSON escapes of what a name may hold
            lines += [
                (name, f'["{quote}",{text},"{digests[at : at + 64]}"]\n')
                for name, quote, text, at in zip(names, quoted, about, range(0, len(digests), 64), strict=True)
            ]
        lines.sort()  # names are ASCII, so their order is that of their bytes
        return blake3.blake3("".join([line for _, line in lines]).encode()).hexdigest()

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Bytes:
        """Logical bytes [start, stop) of a tensor's extent: a read-only view of the mapping where they are stored raw.

        Raises:
            KeyError: no such tensor.
            IntegrityError: a chunk that this call is the first to touch does not match its hash.
            ChangedError: the file is no longer what was opened.
        """
        number, row = self._locate(name)
        part = self.parts[number]
        length = int(part.index.records[row]["length"])
        start, stop, _ = slice(start, stop).indices(length)
        try:
            return part.read(row, start, max(stop, start))
        except QFormatError as error:
            error.file, error.tensor = error.file or part.source.path, error.tensor or name
            raise

    def guard(self) -> None:
        """ChangedError if a file of this container is no longer what was opened."""
        for part in self.parts:
            part.source.check()

    def verify(
        self,
        names: Sequence[str] | None = None,
        workers: int | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> list[QFormatError]:
        """Every byte (or those of some tensors) against its hashes, in parallel; one error for each bad tensor.

        `progress` is called with the number of bytes done so far.
        """
        from qformat.container.verify import verify_parts  # threads are not imported to read

        rows = None if names is None else [(self.parts[number], row) for number, row in map(self._locate, names)]
        errors = verify_parts(self.parts, rows, workers, progress)
        self.guard()
        return errors

    def close(self) -> None:
        """Let go of the files. Arrays that were handed out stay valid."""
        for part in self.parts:
            part.source.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Container, (self.path,)

    def __repr__(self) -> str:
        return f"<qformat.Container {self.path!r}: {len(self)} tensors>"


def _about(records: NDArray[Any], schemes: Sequence[str]) -> list[str]:
    """What the content digest has of each tensor between its name and its bytes, as JSON."""
    keys = np.column_stack([records[field] for field in ("dtype", "rank", "shape", "parameters", "scheme")])
    rows = keys.view(f"V{keys.shape[1] * keys.itemsize}").reshape(-1).tolist()
    texts: dict[bytes, str] = {}  # a model has few different shapes, so each is spelled once
    for at, row in enumerate(rows):
        if row not in texts:
            dtype, rank, *numbers, scheme = keys[at].tolist()
            text = strictjson.dumps([dtypes.NAME_OF_ID[dtype], numbers[:rank], numbers[RANK:]]).decode()
            texts[row] = f"{text[1:-1]},{schemes[scheme]}"
    return [texts[row] for row in rows]


class Attachments(Mapping[str, bytes]):
    """Files that belong to the model, by relative path."""

    def __init__(self, container: Container) -> None:
        self._container = container

    def _names(self) -> list[str]:
        return [name.decode() for part in self._container.parts for name in part.names[part.tensors :]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __getitem__(self, name: str) -> bytes:
        found = self._container._find(name, attached=True)
        if found is None:
            raise KeyError(name)
        part, row = self._container.parts[found[0]], found[1]
        return part.read(row, 0, int(part.index.records[row]["length"])).tobytes()
