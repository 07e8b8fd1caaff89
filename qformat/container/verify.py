"""Every byte of a container against its hashes, in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from threading import Lock
from typing import Any

import blake3
import numpy as np

from qformat.container import chunks
from qformat.container.forward import Held
from qformat.container.index import ALIAS, read
from qformat.container.opening import trailer_is_whole
from qformat.container.part import Part
from qformat.container.records import CHUNK, LIMITS, PREAMBLE, RAW, TRAILER
from qformat.errors import IntegrityError, InvalidFileError, QFormatError

_WINDOW = 2  # chunks of one extent that threads read at a time, at least: more of them leave the cache
_TURN = 1 << 14  # what an extent costs beside its bytes, in bytes

Job = tuple[Part, int]


def verify_parts(
    parts: list[Part],
    jobs: list[Job] | None = None,
    workers: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> list[QFormatError]:
    """Some extents, or with `jobs` None all of them and what lies around them; one error for each bad one."""
    done, lock = 0, Lock()

    def advance(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            if progress is not None:
                progress(done)

    def in_turn(batch: list[Job]) -> list[QFormatError]:
        return [error for part, row in batch for error in verify_extent(part, row, advance)]

    every = [(part, row) for part in parts for row in part.in_file_order()] if jobs is None else jobs
    workers = workers or len(os.sched_getaffinity(0))
    sizes = [int(part.index.records[row]["stored"]) for part, row in every]
    # What is too large to be shared out as a whole is shared out by its chunks.
    window = max(workers, _WINDOW)
    most = max(sum(sizes) // (4 * workers), window * CHUNK) if workers > 1 else sum(sizes)
    small = [job for job, size in zip(every, sizes, strict=True) if size <= most]
    large = [job for job, size in zip(every, sizes, strict=True) if size > most]
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(in_turn, _batches(small)))
        found += [verify_extent(part, row, advance, pool, window) for part, row in large]
    errors = [error for some in found for error in some]
    if jobs is None:
        for part in parts:
            errors += verify_rest(part)
    return errors


def _batches(jobs: list[Job]) -> Iterator[list[Job]]:
    """Extents that one thread checks in turn: a chunk's worth of bytes, since a thread's turn has its own cost."""
    batch, size = [], 0
    for part, row in jobs:
        batch.append((part, row))
        size += _TURN + int(part.index.records[row]["stored"])
        if size >= CHUNK:
            yield batch
            batch, size = [], 0
    yield batch


def verify_extent(
    part: Part, row: int, progress: Callable[[int], Any], pool: Executor | None = None, window: int = 1
) -> list[QFormatError]:
    """Every chunk hash and the digest of one extent, read with pread.

    With a pool, threads read `window` chunks side by side and then hash them together: a thread that reads ahead
    meanwhile takes a core from the hash, which is what costs most, and was a third slower.
    """
    r = part.index.records[row]
    name, first = part.names[row].decode(), int(r["first_chunk"])
    table = part.index.chunks[first : first + int(r["chunks"])]
    ends = int(r["offset"]) + np.cumsum(table["stored"], dtype=np.int64)
    starts = (ends - table["stored"]).tolist()
    room = np.empty(min(window * CHUNK, int(r["stored"])), np.uint8)
    digest = blake3.blake3(max_threads=1 if pool is None else blake3.blake3.AUTO)
    bad: list[str] = []

    def check(chunk: int) -> str | None:
        """Reads a chunk into its place in the window; what is wrong with it."""
        at, size, codec = starts[chunk], int(table["stored"][chunk]), int(table["codec"][chunk])
        place = at - starts[chunk - chunk % window]
        stored = part.source.pread(at, size, room[place : place + size])
        if chunks.checksum(stored) != int(table["xxh3"][chunk]):
            return f"chunk {chunk} at byte {at}"
        if codec != RAW:
            chunks.decode(codec, stored, min(CHUNK, int(r["length"]) - chunk * CHUNK))
        return None

    try:
        for low in range(0, len(starts), window):
            high = min(low + window, len(starts))
            bad += filter(None, map(check, range(low, high)) if pool is None else pool.map(check, range(low, high)))
            size = int(ends[high - 1]) - starts[low]
            digest.update(room[:size])
            progress(size)
    except QFormatError as error:
        error.file, error.tensor = part.source.path, name
        return [error]
    if bad or digest.digest() != r["digest"].tobytes():
        where = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "") if bad else "digest"
        return [IntegrityError("damaged", file=part.source.path, tensor=name, field=where)]
    return []


def verify_rest(part: Part) -> list[QFormatError]:
    """What lies between and around extents: padding is zero, superseded indexes are what they were."""
    errors: list[QFormatError] = []
    r = part.index.records.whole()
    own = r[r["kind"] != ALIAS]
    own = own[np.argsort(own["order"], kind="stable")]
    ends = np.concatenate([[PREAMBLE.itemsize], own["offset"].astype(np.int64) + own["stored"].astype(np.int64)])
    starts = np.concatenate([own["offset"].astype(np.int64), [part.index.end]])
    for end, start in zip(ends.tolist(), starts.tolist(), strict=True):
        if start > end and part.source.pread(end, start - end).any():
            errors.append(InvalidFileError("padding is not zero", file=part.source.path, field="padding", offset=end))
    previous, oldest = part.index.previous, part.index.end if not part.index.previous[1] else 0
    while previous[1]:
        start, length, digest = previous
        raw = part.source.pread(start, length)
        tail = part.source.pread(start + length, TRAILER.itemsize).view(TRAILER)[0]
        if blake3.blake3(raw).digest() != digest or not trailer_is_whole(
            tail, start, length, start + length + TRAILER.itemsize
        ):
            errors.append(
                IntegrityError("a superseded index is damaged", file=part.source.path, field="previous", offset=start)
            )
            break
        previous = read(Held(raw, start, part.source.path), start, length, digest, LIMITS).previous
        oldest = start
    if not errors and oldest != part.index.end:
        errors.append(
            InvalidFileError(
                "bytes that nothing accounts for", file=part.source.path, field="extents", offset=part.index.end
            )
        )
    return errors
