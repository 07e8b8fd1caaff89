"""The journal beside a growing file: what is finished, for whom, and a lock.

`OUT.journal` is a line per record, each with its own checksum: first the fingerprint of the run (source, recipe,
versions) and the names of its growing files, then finished entries in file order, at last `done`. A record is written
only after the bytes that it speaks of are on the disk, so whatever a kill or a power cut leaves behind, everything that
the journal says is true. A torn last line is not a record.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from qformat.container.sets import claimed
from qformat.errors import OutputError

MAX_JOURNAL = 2**31


def _line(record: dict[str, Any]) -> bytes:
    body = msgspec.json.encode(record)
    return b"%016x %s\n" % (xxhash.xxh3_64_intdigest(body), body)


def _records(raw: bytes) -> tuple[list[dict[str, Any]], int]:
    """The whole records at the start of `raw`, and the length of what they take."""
    records: list[dict[str, Any]] = []
    end = 0
    while (stop := raw.find(b"\n", end)) >= 0:
        checksum, _, body = raw[end:stop].partition(b" ")
        if checksum != b"%016x" % xxhash.xxh3_64_intdigest(body):
            break
        records.append(msgspec.json.decode(body))
        end = stop + 1
    return records, end


class Journal:
    """An open, locked journal. `records` is what an earlier run left, without its fingerprint.

    `files` are the names of the growing files beside it; with `restart` those of the earlier run are deleted.

    Raises:
        OutputError: another process holds it, or it belongs to a run of something else.
    """

    def __init__(
        self, path: Path, fingerprint: dict[str, Any], *, files: Sequence[str] = (), restart: bool = False
    ) -> None:
        self.path = path
        self._mutex = threading.Lock()
        self._fd = _open_locked(path)
        try:
            found, end = _records(self._raw())
            if found and restart:
                self._discard(found)
            if restart or not found:
                found, end = [], 0
            elif (differs := _difference(found[0].get("fingerprint", {}), fingerprint)) is not None:
                field, old, new = differs
                raise OutputError(
                    "an interrupted run of something else is here; finish it, or discard it with restart (--restart)",
                    file=str(path),
                    field=field,
                    expected=new,
                    found=old,
                )
            os.ftruncate(self._fd, end)
            self._end = end
            self.records = found[1:]
            if not found:
                self.append([{"fingerprint": fingerprint, "files": list(files)}])
        except BaseException:
            os.close(self._fd)
            raise

    def _raw(self) -> bytes:
        return os.pread(self._fd, min(os.fstat(self._fd).st_size, MAX_JOURNAL), 0)

    def _discard(self, found: list[dict[str, Any]]) -> None:
        """Delete what the run of `found` left, also shards that had got their names when no manifest claimed them yet.

        The journal forgets first what is in the growing files, and at last what they are called: a kill on the way
        leaves a run of which nothing is finished.
        """
        names = [name for name in found[0].get("files", []) if Path(name).name == name and name.endswith(".partial")]
        growing = [self.path.with_name(name) for name in names]
        if len(growing) > 1 and any("done" in record for record in found):
            kept = claimed(self.path.parent)
            for path in growing:
                if path.stem not in kept and not path.exists():
                    path.with_suffix("").unlink(missing_ok=True)
        os.ftruncate(self._fd, self._raw().find(b"\n") + 1)
        os.fdatasync(self._fd)
        for path in growing:
            path.unlink(missing_ok=True)

    def append(self, records: list[dict[str, Any]]) -> None:
        """Write records and force them to the disk."""
        data = memoryview(b"".join(map(_line, records)))
        with self._mutex:
            while data:
                written = os.pwrite(self._fd, data, self._end)
                self._end, data = self._end + written, data[written:]
            os.fdatasync(self._fd)

    def truncate(self, records: list[dict[str, Any]]) -> None:
        """Keep only the first of the old records (the file was shorter than the journal said)."""
        raw = self._raw()
        end = raw.find(b"\n") + 1
        for _ in records:
            end = raw.find(b"\n", end) + 1
        os.ftruncate(self._fd, end)
        self._end, self.records = end, list(records)

    def remove(self) -> None:
        """The run is over: unlink, then let go of the lock."""
        os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Let go of the lock; the journal stays for the next run."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open_locked(path: Path) -> int:
    """A locked descriptor of the file that `path` names now, not of one that the last owner has just unlinked."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise OutputError(f"cannot be opened: {error.strerror}", file=str(path)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise OutputError("another process is writing this file", file=str(path)) from error
            raise OutputError(f"cannot be locked: {error.strerror}", file=str(path)) from error
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass  # unlinked between our open and our lock: the next turn makes a new one
        os.close(descriptor)


def _difference(old: Any, new: Any, place: str = "fingerprint") -> tuple[str, Any, Any] | None:
    """The first place where two fingerprints differ: (field, old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if (found := _difference(old.get(key), new.get(key), f"{place}.{key}")) is not None:
                return found
        return None
    return None if old == new else (place, old, new)
