"""The files of a run: `OUT.partial` growing beside `OUT.journal`, until one rename makes OUT of it.

For a set of shards every shard has its own `.partial`; all are renamed at the end and the manifest is written last.
What that leaves of an older set, with another number of shards, is deleted after it: the journal remembers its table.
"""

from __future__ import annotations

import os
import queue
import stat
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from qformat import container
from qformat.container import Entry, Writer
from qformat.container.create import check_target as check_regular
from qformat.container.create import sweep, sync_directory
from qformat.container.sets import Row, drop_replaced, rows_at, set_of
from qformat.container.shards import check_shard_name
from qformat.converters.journal import Journal
from qformat.converters.sources import Source
from qformat.errors import InvalidFileError, OutputError, QFormatError

COMMIT_BYTES = 64 * 2**20
COMMIT_SECONDS = 1.0
BLOCK = 4 << 20


def check_target(out: Path, source: Source) -> None:
    """OutputError unless `out` is, or can become, a regular file that is part neither of the source nor of a set."""
    if out.is_symlink():
        raise OutputError("is a symbolic link", file=str(out))
    if not out.parent.is_dir():
        raise OutputError("its directory does not exist", file=str(out))
    if out.name in ("", ".", ".."):
        raise OutputError("not a file name", file=str(out))
    if out.exists():
        found = out.stat()
        if not stat.S_ISREG(found.st_mode):
            raise OutputError("exists and is not a regular file", file=str(out))
        for file in (*source.files, *source.attachments.values()):
            if os.path.samestat(found, os.stat(file.path)):
                raise OutputError("is the source itself", file=str(out), found=file.path)
        if (whole := set_of(out)) is not None:
            raise OutputError(f"a shard of {whole}, which pins its size and digest", file=str(out))


def check_shards(targets: Sequence[Path], *, replace: bool) -> None:
    """OutputError unless every file of a set can get its name, which is not a time to find out when all is written."""
    for target in targets:
        try:
            check_shard_name(target.name, str(target))
        except InvalidFileError as error:
            raise OutputError(
                "no name for a shard: those of a set are plain ASCII and end in .qf", file=str(target)
            ) from error
        check_regular(target)
        if target.exists() and not replace:
            raise OutputError("exists; overwrite (--overwrite) replaces it", file=str(target))


def shard_paths(out: Path, count: int) -> list[Path]:
    """Where the shards of a set go; one shard is the file itself."""
    if count == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{i + 1:05d}-of-{count:05d}{out.suffix}") for i in range(count)]


class _File:
    """A raw file for the Writer: whole writes or an OutputError.

    Bytes go out in blocks of BLOCK that begin at multiples of it, and before a sync. Linux then keeps them in pages of
    2 MiB where the file system can, which mappings of the file have as well: products find huge pages in a file that
    was just written.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            os.ftruncate(self._fd, keep)
        except OSError as error:
            raise output_error(error, path) from error
        self._position = keep  # of what is in `_block`, of which `_held` bytes are used
        self._block, self._held = memoryview(bytearray(BLOCK)), 0
        self._lock = threading.Lock()  # the committer syncs while more is written

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        with self._lock:
            while view:
                room = BLOCK - (self._position + self._held) % BLOCK
                part, view = view[:room], view[room:]
                if len(part) == room and not self._held:
                    self._put(part)
                    continue
                self._block[self._held : self._held + len(part)] = part
                self._held += len(part)
                if len(part) == room:
                    self._flush()
        return size

    def _flush(self) -> None:
        held, self._held = self._held, 0
        self._put(self._block[:held])

    def _put(self, view: memoryview) -> None:
        try:
            while view:
                count = os.pwrite(self._fd, view, self._position)
                self._position, view = self._position + count, view[count:]
        except OSError as error:
            raise output_error(error, self.path) from error

    def sync(self) -> None:
        with self._lock:
            self._flush()
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise output_error(error, self.path) from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def output_error(error: OSError, path: Path) -> OutputError:
    """What went wrong with the output; the journal stays usable, so the message says that the run can go on."""
    wrapped = OutputError(f"cannot be written: {error.strerror}; the same command goes on from here", file=str(path))
    wrapped.errno = error.errno
    return wrapped


class Committer:
    """Makes finished entries durable in a thread: bytes first, then their records. Errors come out at the next call."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._queue: queue.Queue[tuple[_File, list[dict[str, Any]]] | None] = queue.Queue()
        self._failure: BaseException | None = None
        self._pending: list[dict[str, Any]] = []
        self._bytes, self._last = 0, time.monotonic()
        self._thread = threading.Thread(target=self._work, name="qformat-commit", daemon=True)
        self._thread.start()

    def add(self, file: _File, record: dict[str, Any], nbytes: int) -> None:
        """One more finished record; a group is committed every 64 MiB or second."""
        self._raise()
        self._pending.append(record)
        self._bytes += nbytes
        now = time.monotonic()
        if self._bytes >= COMMIT_BYTES or now - self._last >= COMMIT_SECONDS:
            self.flush(file)
            self._bytes, self._last = 0, now

    def flush(self, file: _File) -> None:
        """Hand over what is pending."""
        if self._pending:
            self._queue.put((file, self._pending))
            self._pending = []

    def drain(self, file: _File) -> None:
        """Return when everything is durable."""
        self.flush(file)
        self._queue.join()
        self._raise()

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                if self._failure is None:
                    work[0].sync()
                    self._journal.append(work[1])
            except QFormatError as error:
                self._failure = error
            except OSError as error:
                self._failure = output_error(error, self._journal.path)
            except Exception as error:  # a thread that ended here would leave `drain` waiting for ever
                self._failure = error
            finally:
                self._queue.task_done()
        self._queue.task_done()


class Output:
    """The growing files of a run and what an earlier run left of them.

    Args:
        out: the final path.
        counts: how many tensors each shard holds (one number: a plain file).
        fingerprint: what identifies this run.
    """

    def __init__(self, out: Path, counts: Sequence[int], fingerprint: dict[str, Any], *, restart: bool = False) -> None:
        self.out, self.counts = out, list(counts)
        self.targets = shard_paths(out, len(self.counts))
        self.partials = [path.with_name(path.name + ".partial") for path in self.targets]
        growing = [path.name for path in self.partials]
        self.journal = Journal(out.with_name(out.name + ".journal"), fingerprint, files=growing, restart=restart)
        done = next((record for record in self.journal.records if "done" in record), None)
        self.finished = done is not None and self._are_there(done["sizes"])
        self.replaced: list[Row] = done["replaces"] if done is not None and self.finished else []
        self.notes: list[dict[str, Any]] = []  # of finished tensors, in order
        self.hashes: dict[str, str] = {}
        self.sealed: set[int] = set()
        self.shard = 0
        self._file: _File | None = None
        self._writer: Writer | None = None
        self._kept: list[Entry] = []
        self.committer = Committer(self.journal)
        try:
            self._resume()
            if not self.finished:
                self._open(self.shard, self._kept)
        except BaseException:
            self.close()
            raise

    # -- what is left of an earlier run

    def _are_there(self, sizes: list[int]) -> bool:
        """Whether every file of a finished run is, under one name or the other: somebody may have tidied up."""
        files = [a if a.exists() else b for a, b in zip(self.partials, self.targets, strict=True)]
        return [file.stat().st_size if file.exists() else -1 for file in files] == sizes

    def _resume(self) -> None:
        """Keep the longest run of records whose bytes are there; of a finished run all (its files may be renamed)."""
        kept: list[dict[str, Any]] = []
        entries: list[list[Entry]] = [[] for _ in self.counts]
        sizes = [path.stat().st_size if path.exists() else 0 for path in self.partials]
        for record in self.journal.records:
            if "entry" in record:
                entry = msgspec.convert(record["entry"], Entry)
                if not self.finished and entry.end > sizes[record["shard"]]:
                    break
                entries[record["shard"]].append(entry)
                self.notes.append(record["note"])
            elif "sealed" in record:
                if not self.finished and not self.partials[record["sealed"]].exists():
                    break
                self.sealed.add(record["sealed"])
            elif "hash" in record:
                self.hashes[record["hash"]] = record["blake3"]
            kept.append(record)
        if len(kept) != len(self.journal.records):
            self.journal.truncate(kept)
        self.shard = len(self.sealed)
        self._kept = entries[self.shard] if self.shard < len(entries) else []

    def _open(self, shard: int, entries: Iterable[Entry] = ()) -> None:
        kept = list(entries)
        if shard >= len(self.counts):
            return
        self._file = _File(self.partials[shard], kept[-1].end if kept else 0)
        self._writer = Writer(cast(BinaryIO, self._file), entries=kept)

    # -- writing

    @property
    def writer(self) -> Writer:
        assert self._writer is not None
        return self._writer

    def record(self, entry: Entry, note: dict[str, Any], nbytes: int) -> None:
        """A tensor is written; it will be durable within a second."""
        assert self._file is not None
        self.notes.append(note)
        built = msgspec.to_builtins(entry)
        self.committer.add(self._file, {"shard": self.shard, "entry": built, "note": note}, nbytes)

    def record_hash(self, name: str, digest: str) -> None:
        """A source file's BLAKE3 is known."""
        self.hashes[name] = digest
        assert self._file is not None
        self.committer.add(self._file, {"hash": name, "blake3": digest}, 0)

    def seal(self, attachments: dict[str, bytes], metadata: dict[str, Any]) -> None:
        """The current shard is complete: its attachments, index and trailer, on the disk."""
        assert self._file is not None
        for name, data in attachments.items():
            self.writer.attachment(name, data)
        self.writer.finish(metadata)
        self.committer.drain(self._file)
        self._file.sync()
        self.journal.append([{"sealed": self.shard}])
        self.sealed.add(self.shard)
        self._file.close()
        self._file = self._writer = None
        self.shard += 1
        self._open(self.shard)

    def publish(self, attachments: dict[str, bytes], metadata: dict[str, Any]) -> None:
        """Every shard gets its name, a set its manifest, shards of an older set are deleted, then the journal. Safe to
        repeat after a kill."""
        if not self.finished:
            self.replaced = rows_at(self.out)
            sizes = [path.stat().st_size for path in self.partials]
            self.journal.append([{"done": True, "replaces": self.replaced, "sizes": sizes}])
        try:
            for partial, target in zip(self.partials, self.targets, strict=True):
                if partial.exists():
                    os.rename(partial, target)
            sync_directory(self.out.parent)
            if len(self.targets) > 1:
                container.write_manifest(self.out, self.targets, metadata, attachments)
                sync_directory(self.out.parent)
            drop_replaced(self.out, self.replaced)
            sweep(self.out)  # a manifest that a kill kept from its name
            self.journal.remove()
            sync_directory(self.out.parent)
        except OSError as error:
            raise error if isinstance(error, QFormatError) else output_error(error, self.out) from error

    def stop(self) -> None:
        """Make what is finished durable; a disk that cannot has already said so."""
        if self._file is not None:
            self.committer.drain(self._file)

    def close(self) -> None:
        """Let go of files and lock; partial file and journal stay for the next run."""
        self.committer.close()
        if self._file is not None:
            self._file.close()
        self.journal.close()
