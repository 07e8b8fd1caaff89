"""Verification: every stored byte against its hashes, padding against zero, superseded indexes against their links."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from qformat.container import chunks
from qformat.container.build import trailer_of
from qformat.container.constants import ALIGNMENT, CHUNK, LIMITS, TRAILER, Kind, align
from qformat.container.digest import hasher
from qformat.container.index import check_preamble, parse_index
from qformat.container.part import Part
from qformat.container.source import FileSource
from qformat.errors import ChangedError, IntegrityError, InvalidFileError, QFormatError

Located = tuple[Part, int]
Progress = Callable[[int], None]


def verify(
    head: Part, parts: Sequence[Part], wanted: Sequence[Located] | None, workers: int | None, progress: Progress | None
) -> list[QFormatError]:
    """Errors of all extents of `parts` and the manifest `head`, or of `wanted` alone, in file order."""
    files = list(dict.fromkeys((head, *parts)))
    if wanted is None:
        jobs = [(part, int(i)) for part in files for i in np.argsort(part.index.records["order"])]
    else:
        jobs = list(dict.fromkeys((part, part.resolve(i)) for part, i in wanted))
    jobs = [(part, i) for part, i in jobs if part.index.records["kind"][i] != Kind.ALIAS]
    errors: list[QFormatError] = []
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        try:
            # In blocks, so that a million records are not a million pending futures.
            for first in range(0, len(jobs), 1024):
                for found in pool.map(lambda job: _extent(*job, progress), jobs[first : first + 1024]):
                    errors.extend(found)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if wanted is None:
        for part in files:
            errors.extend(_gaps(part))
            errors.extend(_history(part))
    return errors


def _extent(part: Part, i: int, progress: Progress | None) -> list[QFormatError]:
    """At most one error about record `i`: which chunks are damaged, or that they do not decode."""
    index, row = part.index, part.index.records[i]
    first, last = int(index.first_chunk[i]), int(index.first_chunk[i + 1])
    whole = hasher(int(row["stored"]))
    buffer = memoryview(bytearray(min(CHUNK, int(row["stored"]))))
    damaged: list[IntegrityError] = []
    undecodable: list[QFormatError] = []
    for chunk in range(first, last):
        data = _read(part, int(index.chunk_offset[chunk]), buffer[: int(index.chunk_stored[chunk])])
        whole.update(data)
        try:
            part.check(i, chunk, data)
            length = chunks.chunk_length(int(row["length"]), chunk - first)
            if len(data) != length and row["encoding"] in chunks.KNOWN:
                chunks.decode(data, length, int(row["encoding"]), int(row["itemsize"]), **part.place(i, chunk))
        except IntegrityError as error:
            damaged.append(error)
        except QFormatError as error:
            undecodable.append(error)
        if progress:
            progress(len(data))
    if damaged:
        error = damaged[0]
        if len(damaged) > 1:
            error.message += f", and {len(damaged) - 1} more of its {last - first} chunks"
        return [error]
    if whole.digest() != row["digest"].tobytes():
        place = {"file": part.source.name, "tensor": index.name(i), "field": "digest", "offset": int(row["offset"])}
        return [IntegrityError("stored bytes have another digest", **place, expected=row["digest"].tobytes().hex(), found=whole.hexdigest())]
    return undecodable[:1]


def _read(part: Part, offset: int, buffer: memoryview) -> memoryview:
    # Into memory of our own: a file that shrinks under a mapping would end the process with SIGBUS.
    if isinstance(part.source, FileSource):
        part.source.read_into(offset, buffer)
        return buffer
    return memoryview(part.source.read(offset, len(buffer)))


def _gaps(part: Part) -> Iterator[QFormatError]:
    """Padding that is not zero: before extents, and between the last one and the first index."""
    rows = part.index.records
    rows = rows[np.argsort(rows["order"])]
    rows = rows[rows["kind"] != Kind.ALIAS]
    starts = np.concatenate([[ALIGNMENT], (rows["offset"] + rows["stored"]).astype(np.int64)])
    ends = np.concatenate([rows["offset"].astype(np.int64), [align(part.index.extents_end, ALIGNMENT)]])
    for start, end in zip(starts[ends > starts].tolist(), ends[ends > starts].tolist(), strict=True):
        padding = part.source.read(start, end - start)
        if padding.strip(b"\0"):
            at = start + next(k for k, byte in enumerate(padding) if byte)
            yield InvalidFileError("padding is not zero", file=part.source.name, field="padding", offset=at)


def _history(part: Part) -> Iterator[QFormatError]:
    """The preamble, and the chain of superseded indexes down to the one that follows the extents."""
    index, source = part.index, part.source
    try:
        check_preamble(source)
        for _ in range(LIMITS.superseded):
            if index.superseded is None:
                return
            offset, length, digest = index.superseded
            index = parse_index(source, offset, length, digest)
            if source.read(offset + length, TRAILER.itemsize) != trailer_of(offset, length, digest):
                raise InvalidFileError("superseded trailer is damaged", file=source.name, field="trailer", offset=offset + length)
        raise InvalidFileError("too many superseded indexes", file=source.name, field="index.superseded_offset", offset=index.offset)
    except ChangedError:
        raise
    except QFormatError as error:
        yield error
