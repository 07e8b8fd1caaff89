"""Reading: a mapping of names to bytes, checked before they are believed.

`open` reads trailer and index, and validates all of it. Extents are views of the mapping; the chunks that a call
touches are hashed the first time that they are touched.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from threading import Thread
from typing import TYPE_CHECKING, Any

import blake3
import numpy as np
from numpy.typing import NDArray

from qformat import dtypes
from qformat.container import chunks, strictjson
from qformat.container.index import ALIAS, ATTACHMENT, Index, parse
from qformat.container.records import (
    BYTE_ORDER,
    CHUNK,
    KINDS,
    LIMITS,
    MAGIC,
    NONE,
    PREAMBLE,
    RAW,
    TRAILER,
    TRAILER_MAGIC,
    VERSION,
    Limits,
    Record,
)
from qformat.container.sources import ByteSource, open_source
from qformat.errors import IntegrityError, InvalidFileError, LimitError, QFormatError, UnsupportedError

if TYPE_CHECKING:
    from concurrent.futures import Executor

Bytes = NDArray[np.uint8]

_WINDOW = 4  # chunks of one extent that are read and hashed at a time when threads share it
_TURN = 1 << 14  # what an extent costs beside its bytes, in bytes
_HASHED_BESIDE = 1 << 20  # from this length on, a thread pays

# What else a file may be, by how it begins.
_KINDS = {
    b"GGUF": "a GGUF file",
    b"PK\x03\x04": "a zip archive (or a PyTorch checkpoint)",
    b"\x1f\x8b": "gzip",
    b"\x80\x02": "a pickle",
    b"version https://git-lfs": "a Git LFS pointer: the file itself was not downloaded",
    b"<": "a web page",
    b"\x93NUMPY": "a numpy array",
    b"\x89QFM\n": "mangled by a text-mode transfer",
    b"\x89QFM\r\r": "mangled by a text-mode transfer",
    b"\0\0\0\0\0\0\0\0": "zeros: an interrupted or pre-sized download",
}


class Part:
    """One file of a container: its bytes, its index and what of it has been checked."""

    def __init__(self, source: ByteSource, limits: Limits) -> None:
        self.source = source
        try:
            self.index, self.digest, self.version = _open(source, limits)
        except BaseException as error:
            source.close()
            if isinstance(error, QFormatError):
                error.file = error.file or source.path
            raise
        records = self.index.records
        self.tensors = int((records["kind"] != ATTACHMENT).sum())
        self.names = self.index.names
        self.touched = np.zeros(len(self.index.chunks), bool)

    def find(self, name: bytes, first: int, last: int) -> int | None:
        row = bisect_left(self.names, name, first, last)
        return row if row < last and self.names[row] == name else None

    def read(self, row: int, start: int, stop: int) -> Bytes:
        """Logical bytes [start, stop) of an extent; IntegrityError if a chunk of them is damaged."""
        r = self.index.records[row]
        first, length = int(r["first_chunk"]), int(r["length"])
        low, high = start // CHUNK, -(-stop // CHUNK) if stop > start else start // CHUNK
        table = self.index.chunks[first : first + int(r["chunks"])]
        before = int(table["stored"][:low].sum(dtype=np.uint64))
        if (table["codec"][low:high] == RAW).all():
            base = int(r["offset"]) + before
            if not self.touched[first + low : first + high].all():
                for chunk in range(low, high):
                    self._check(
                        row, first + chunk, self.source.view(base + (chunk - low) * CHUNK, int(table["stored"][chunk]))
                    )
                self.source.check()
            return self.source.view(base + start - low * CHUNK, stop - start)
        pieces, position = [], int(r["offset"]) + before
        for chunk in range(low, high):
            stored = self.source.pread(position, int(table["stored"][chunk]))
            self._check(row, first + chunk, stored)
            raw = chunks.decode(int(table["codec"][chunk]), stored, min(CHUNK, length - chunk * CHUNK))
            pieces.append(raw)
            position += stored.size
        whole = np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)
        return whole[start - low * CHUNK : stop - low * CHUNK]

    def _check(self, row: int, chunk: int, stored: Bytes) -> None:
        if self.touched[chunk]:
            return
        expected = int(self.index.chunks["xxh3"][chunk])
        found = chunks.checksum(stored)
        if found != expected:
            self.source.check()  # a file that has shrunk is not a damaged one
            inside = chunk - int(self.index.records["first_chunk"][row])
            raise IntegrityError(
                "damaged",
                file=self.source.path,
                tensor=self.names[row].decode(),
                field=f"chunk {inside}",
                expected=f"{expected:016x}",
                found=f"{found:016x}",
            )
        self.touched[chunk] = True

    def verify(self, row: int, progress: Callable[[int], Any], pool: Executor | None = None) -> list[QFormatError]:
        """Every chunk hash and the digest of one extent, read with pread; with a pool, several chunks at a time."""
        r = self.index.records[row]
        name, first = self.names[row].decode(), int(r["first_chunk"])
        table = self.index.chunks[first : first + int(r["chunks"])]
        ends = int(r["offset"]) + np.cumsum(table["stored"], dtype=np.int64)
        starts = (ends - table["stored"]).tolist()
        window = 1 if pool is None else _WINDOW
        # Two windows: threads fill one while the other is hashed.
        rooms = [np.empty(min(window * CHUNK, int(r["stored"])), np.uint8) for _ in range(1 if pool is None else 2)]
        digest = blake3.blake3(max_threads=1 if pool is None else blake3.blake3.AUTO)
        bad: list[str] = []

        def check(chunk: int) -> str | None:
            """Reads a chunk into its place in the window; what is wrong with it."""
            at, size, codec = starts[chunk], int(table["stored"][chunk]), int(table["codec"][chunk])
            place = at - starts[chunk - chunk % window]
            stored = self.source.pread(at, size, rooms[chunk // window % len(rooms)][place : place + size])
            if chunks.checksum(stored) != int(table["xxh3"][chunk]):
                return f"chunk {chunk} at byte {at}"
            if codec != RAW:
                chunks.decode(codec, stored, min(CHUNK, int(r["length"]) - chunk * CHUNK))
            return None

        def checks(low: int) -> Iterator[str | None]:
            of = range(low, min(low + window, len(starts)))
            return map(check, of) if pool is None else pool.map(check, of)

        try:
            ahead = checks(0)
            for low in range(0, len(starts), window):
                bad += filter(None, ahead)
                ahead = checks(low + window)
                size = int(ends[min(low + window, len(starts)) - 1]) - starts[low]
                digest.update(rooms[low // window % len(rooms)][:size])
                progress(size)
        except QFormatError as error:
            error.file, error.tensor = self.source.path, name
            return [error]
        if bad or digest.digest() != r["digest"].tobytes():
            where = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "") if bad else "digest"
            return [IntegrityError("damaged", file=self.source.path, tensor=name, field=where)]
        return []

    def in_file_order(self) -> list[int]:
        """Records that have an extent of their own."""
        own = np.flatnonzero(self.index.records["kind"] != ALIAS)
        rows: list[int] = own[np.argsort(self.index.records["offset"][own], kind="stable")].tolist()
        return rows

    def verify_rest(self) -> list[QFormatError]:
        """What lies between and around extents: padding is zero, superseded indexes are what they were."""
        errors: list[QFormatError] = []
        r = self.index.records
        own = r[r["kind"] != ALIAS]
        own = own[np.argsort(own["order"], kind="stable")]
        ends = np.concatenate([[PREAMBLE.itemsize], own["offset"].astype(np.int64) + own["stored"].astype(np.int64)])
        starts = np.concatenate([own["offset"].astype(np.int64), [self.index.end]])
        for end, start in zip(ends.tolist(), starts.tolist(), strict=True):
            if start > end and self.source.pread(end, start - end).any():
                errors.append(
                    InvalidFileError("padding is not zero", file=self.source.path, field="padding", offset=end)
                )
        previous, oldest = self.index.previous, self.index.end if not self.index.previous[1] else 0
        while previous[1]:
            start, length, digest = previous
            raw = self.source.pread(start, length)
            tail = self.source.pread(start + length, TRAILER.itemsize).view(TRAILER)[0]
            if blake3.blake3(raw).digest() != digest or not _trailer_is_whole(
                tail, start, length, start + length + TRAILER.itemsize
            ):
                errors.append(
                    IntegrityError(
                        "a superseded index is damaged", file=self.source.path, field="previous", offset=start
                    )
                )
                break
            older = parse(raw, start, LIMITS)
            previous = older.previous
            oldest = start
        if not errors and oldest != self.index.end:
            errors.append(
                InvalidFileError(
                    "bytes that nothing accounts for", file=self.source.path, field="extents", offset=self.index.end
                )
            )
        return errors


def _batches(jobs: list[tuple[Part, int]]) -> Iterator[list[tuple[Part, int]]]:
    """Extents that one thread checks in turn: a chunk's worth of bytes, since a thread's turn has its own cost."""
    batch, size = [], 0
    for part, row in jobs:
        batch.append((part, row))
        size += _TURN + int(part.index.records["stored"][row])
        if size >= CHUNK:
            yield batch
            batch, size = [], 0
    yield batch


def _trailer_is_whole(tail: Any, offset: int, length: int, end: int) -> bool:
    return bool(
        tail["magic"].tobytes() == TRAILER_MAGIC
        and int(tail["checksum"]) == chunks.checksum(tail.tobytes()[: TRAILER.itemsize - 8])
        and (int(tail["index_offset"]), int(tail["index_length"]), int(tail["file_size"])) == (offset, length, end)
    )


def _open(source: ByteSource, limits: Limits) -> tuple[Index, str, tuple[int, int]]:
    """Preamble, trailer and index of a file, in the order in which each is trusted."""
    head = source.pread(0, min(source.size, PREAMBLE.itemsize)) if source.size else np.zeros(0, np.uint8)
    start = head.tobytes()
    if start[:8] != MAGIC[: len(start[:8])] or (start and len(start) < 8 and start != MAGIC[: len(start)]):
        what = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)
        if what is None and source.size > 10 and start[8:9] == b"{":
            what = "a safetensors file"
        raise InvalidFileError(
            "not a .qf file" + (f" but {what}" if what else ""), field="magic", offset=0, found=start[:8].hex()
        )
    least = PREAMBLE.itemsize + TRAILER.itemsize
    if source.size < least:
        raise InvalidFileError(
            "the file is cut short", field="size", expected=f"at least {least} bytes", found=source.size
        )
    preamble = head.view(PREAMBLE)[0]
    if int(preamble["byte_order"]) != BYTE_ORDER:
        raise InvalidFileError(
            "wrong byte order", field="preamble.byte_order", offset=8, found=hex(int(preamble["byte_order"]))
        )
    if int(preamble["major"]) != VERSION[0]:
        raise UnsupportedError(
            "another major version", field="preamble.major", expected=VERSION[0], found=int(preamble["major"])
        )
    if any(preamble["reserved"].tobytes()):
        raise InvalidFileError("reserved bytes are not zero", field="preamble.reserved", offset=16)
    at = source.size - TRAILER.itemsize
    tail = source.pread(at, TRAILER.itemsize).view(TRAILER)[0]
    if tail["magic"].tobytes() != TRAILER_MAGIC:
        raise InvalidFileError(
            "no trailer at the end: the file is cut short, or an edit was torn: see `qformat meta recover`",
            field="trailer.magic",
            offset=at,
        )
    if int(tail["checksum"]) != chunks.checksum(tail.tobytes()[: TRAILER.itemsize - 8]):
        raise IntegrityError("the trailer is damaged", field="trailer.checksum", offset=at)
    if any(tail["reserved"].tobytes()):
        raise InvalidFileError("reserved bytes are not zero", field="trailer.reserved", offset=at)
    if int(tail["file_size"]) != source.size:
        raise InvalidFileError(
            "the file has another length than it says",
            field="trailer.file_size",
            expected=int(tail["file_size"]),
            found=source.size,
        )
    offset, length = int(tail["index_offset"]), int(tail["index_length"])
    if offset % 64 or not PREAMBLE.itemsize <= offset <= at or length != at - offset:
        raise InvalidFileError("the index does not lie before the trailer", field="trailer.index_offset", found=offset)
    if length > limits.index:
        raise LimitError(
            "the index is too long", field="trailer.index_length", expected=f"at most {limits.index}", found=length
        )
    raw = source.pread(offset, length)
    index, digest = _parse_and_hash(raw, offset, tail["index_digest"].tobytes(), limits)
    return index, digest.hex(), (VERSION[0], index.minor)


def _parse_and_hash(raw: Bytes, offset: int, expected: bytes, limits: Limits) -> tuple[Index, bytes]:
    """The index and its digest. A large one is hashed while it is parsed (which trusts nothing); damage comes first."""
    found: list[bytes] = []

    def check() -> None:
        if found != [expected]:
            raise IntegrityError("the index is damaged", field="trailer.index_digest", offset=offset)

    def digest() -> None:
        found.append(blake3.blake3(raw).digest())

    if raw.size < _HASHED_BESIDE:
        digest()
        check()
        return parse(raw, offset, limits), found[0]
    beside = Thread(target=digest)
    beside.start()
    try:
        index = parse(raw, offset, limits)
    finally:
        beside.join()
        check()
    return index, found[0]


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
            self.parts += _shards(first, limits)
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
            rows = np.argsort(part.index.records["order"][: part.tensors], kind="stable")
            found += [part.names[row].decode() for row in rows.tolist()]
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
            rows = np.argsort(part.index.records["order"][: part.tensors], kind="stable")
            found.append((part.index.records[rows], [part.names[row].decode() for row in rows.tolist()], base))
        return found

    @property
    def content_digest(self) -> str:
        """BLAKE3 in hex over names, shapes, schemes and tensor bytes: the same after any edit of metadata."""
        lines: list[tuple[str, bytes]] = []
        schemes = [strictjson.dumps(scheme).decode() for scheme in self.schemes]
        for records, names, base in self.columns():
            fields = ("dtype", "rank", "shape", "parameters", "scheme", "digest")
            columns = [records[field].tolist() for field in fields]
            for name, dtype, rank, shape, parameters, scheme, digest in zip(names, *columns, strict=True):
                before = strictjson.dumps([name, dtypes.NAME_OF_ID[dtype], shape[:rank], parameters])[:-1].decode()
                lines.append((name, f'{before},{schemes[scheme + base]},"{digest.hex()}"]\n'.encode()))
        lines.sort()  # names are ASCII, so their order is that of their bytes
        return blake3.blake3(b"".join(line for _, line in lines)).hexdigest()

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
        length = int(part.index.records["length"][row])
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
        from concurrent.futures import ThreadPoolExecutor
        from threading import Lock

        done, lock = 0, Lock()

        def advance(count: int) -> None:
            nonlocal done
            with lock:
                done += count
                if progress is not None:
                    progress(done)

        def in_turn(batch: list[tuple[Part, int]]) -> list[QFormatError]:
            return [error for part, row in batch for error in part.verify(row, advance)]

        jobs: list[tuple[Part, int]]
        if names is not None:
            jobs = [(self.parts[number], row) for number, row in map(self._locate, names)]
        else:
            jobs = [(part, row) for part in self.parts for row in part.in_file_order()]
        workers = workers or len(os.sched_getaffinity(0))
        sizes = [int(part.index.records["stored"][row]) for part, row in jobs]
        # What is too large to be shared out as a whole is shared out by its chunks.
        large = max(sum(sizes) // (4 * workers), _WINDOW * CHUNK) if workers > 1 else sum(sizes)
        with ThreadPoolExecutor(workers) as pool:
            found = list(
                pool.map(in_turn, _batches([job for job, size in zip(jobs, sizes, strict=True) if size <= large]))
            )
            found += [
                part.verify(row, advance, pool) for (part, row), size in zip(jobs, sizes, strict=True) if size > large
            ]
        errors = [error for some in found for error in some]
        if names is None:
            for part in self.parts:
                errors += part.verify_rest()
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
        return part.read(row, 0, int(part.index.records["length"][row])).tobytes()


def check_shard_name(name: Any, file: str) -> str:
    """InvalidFileError unless `name` is a bare file name on every system, ending like a shard does."""
    from pathlib import PurePosixPath, PureWindowsPath  # a set of shards is rare, and pathlib takes 4 ms

    plain = (
        isinstance(name, str)
        and name.isascii()
        and name.isprintable()
        and 0 < len(name) <= 255
        and PurePosixPath(name).name == name == PureWindowsPath(name).name
        and not any(c in name for c in '\\/:*?"<>|')
        and name.endswith(".qf")
        and name == name.strip()
        and name.split(".")[0].upper() not in ("CON", "PRN", "AUX", "NUL")
    )
    if not plain:
        raise InvalidFileError("not the name of a shard", file=file, field="json.shards.file", found=name)
    return str(name)


def _shards(first: Part, limits: Limits) -> list[Part]:
    """The other files of a set, each the very one that the manifest names: size and digest must agree."""
    table = first.index.document.get("shards")
    if ("shards" in first.index.document["required"]) != (table is not None):
        raise InvalidFileError(
            "shards and the feature of that name go together", file=first.source.path, field="json.shards"
        )
    if table is None:
        return []
    file = first.source.path
    if not isinstance(table, list) or not 1 <= len(table) <= limits.shards or first.tensors:
        raise InvalidFileError("not a table of shards beside no tensors", file=file, field="json.shards")
    parts: list[Part] = []
    seen: set[str] = set()
    missing = []
    for row in table:
        if not isinstance(row, dict) or set(row) != {"file", "size", "digest"}:
            raise InvalidFileError("a shard is file, size and digest", file=file, field="json.shards", found=row)
        name = check_shard_name(row["file"], file)
        if name in seen:
            raise InvalidFileError("a shard twice", file=file, field="json.shards", found=name)
        seen.add(name)
    folder, separator, _ = file.rpartition("/")
    try:
        for row in table:
            path = folder + separator + row["file"]
            try:
                part = Part(open_source(path), limits)
            except FileNotFoundError:
                missing.append(row["file"])
                continue
            parts.append(part)
            if "shards" in part.index.document or len(part.names) != part.tensors:
                raise InvalidFileError("a shard is itself a set, or has attachments", file=path, field="json.shards")
            if part.source.size != row["size"] or part.digest != row["digest"]:
                raise IntegrityError(
                    "not the shard that the set was made with",
                    file=path,
                    field="digest",
                    expected=row["digest"],
                    found=part.digest,
                )
        if missing:
            raise InvalidFileError(
                f"{len(missing)} of {len(table)} shards are missing: {', '.join(missing[:5])}",
                file=file,
                field="json.shards",
            )
        every = [name for part in parts for name in part.names]
        if len(set(every)) != len(every):
            every.sort()
            twice = next(a for a, b in pairwise(every) if a == b)
            raise InvalidFileError("a tensor is in two shards", file=file, tensor=twice.decode(), field="json.shards")
    except BaseException:
        for part in parts:
            part.source.close()
        raise
    return parts
