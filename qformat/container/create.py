"""Making a file at once: nothing under the final name until it is whole and on the disk."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from qformat.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from qformat.container.writer import Writer

_AT_FDCWD, _AT_SYMLINK_FOLLOW = -100, 0x400


def sync_directory(path: Path) -> None:
    """Force a directory's entries to the disk, so that a rename survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_target(path: Path) -> None:
    """OutputError if `path` exists and is not a regular file: nothing is written through links or into devices."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise OutputError("exists and is not a regular file", file=path)


def _open_nameless(folder: Path) -> int | None:
    """A file without a name, which a kill leaves no trace of; None where the file system has none."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS):
            return None
        raise


def sweep(target: Path) -> None:
    """Drop what a kill between link and rename left of earlier tries: whoever still writes one holds its lock."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 16}.partial"):
        with suppress(OSError):  # it has just been renamed, or another process holds it
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                    os.unlink(path)
            finally:
                os.close(descriptor)


def _link(descriptor: int, name: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    source = f"/proc/self/fd/{descriptor}".encode()
    if libc.linkat(_AT_FDCWD, source, _AT_FDCWD, os.fsencode(name), _AT_SYMLINK_FOLLOW):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(name))


@contextmanager
def create(path: str | os.PathLike[str]) -> Iterator[Writer]:
    """A Writer for a new file at `path`, which appears, whole, when the block ends after `finish`.

    An existing file is replaced in one step; readers that have it open keep the old one. If it was a set of shards,
    those that the new file does not claim are deleted after that. If the block raises, or ends without `finish`,
    nothing changes.

    Raises:
        OutputError: the target cannot be written; `finish` was not called.
    """
    import secrets
    from pathlib import Path

    from qformat.container.sets import drop_replaced, rows_at
    from qformat.container.writer import Writer

    target = Path(path)
    check_target(target)
    folder = target.parent
    temporary = folder / f".{target.name}.{secrets.token_hex(8)}.partial"
    try:
        descriptor = _open_nameless(folder)
        named = descriptor is None
        if descriptor is None:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(f"cannot be created: {error.strerror}", file=target) from error
    try:
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            sweep(target)
            writer = Writer(file)
            yield writer
            if not writer.finished:
                raise OutputError("the file was not finished", file=target)
            file.flush()
            os.fsync(file.fileno())
            if not named:
                _link(file.fileno(), temporary)
                named = True
        replaced = rows_at(target)
        os.rename(temporary, target)
        named = False
        sync_directory(folder)
        drop_replaced(target, replaced)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot be written: {error.strerror or error}", file=target) from error
    finally:
        if named:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
