"""One-shot files that appear whole or not at all: an unnamed file is written, synced and only then given its name."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator

from qformat.container.writer import Writer
from qformat.errors import OutputError

_SUFFIX = ".qf-partial"
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}


@contextlib.contextmanager
def create(
    path: str | os.PathLike[str], *, overwrite: bool = False, part: tuple[int, int] | None = None
) -> Iterator[Writer]:
    """A Writer whose file stands at `path` once the block ends, durable; after an exception nothing has changed.

    Everything goes through a descriptor of the directory, so renaming the directory meanwhile does no harm.
    OutputError when `path` exists (without `overwrite`), is not a regular file, or cannot be written. The block must
    call `finish`.
    """
    path = os.fspath(path)
    directory, name = os.path.split(path)
    with output_errors(path):
        folder = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with output_errors(path):
            _check_target(folder, name, path, overwrite)
            _sweep(folder, name)
            temporary, fd = _open_temporary(folder, name)
        try:
            with open(fd, "wb", buffering=0) as file:
                writer = Writer(file, part=part)
                yield writer
                if not writer.finished:
                    raise ValueError(f"{path}: the block ended without finish()")
                with output_errors(path):
                    # Never retried: after a failed fsync the kernel may have dropped the dirty pages.
                    os.fsync(fd)
                    _publish(folder, fd, temporary, name, overwrite)
            with output_errors(path):
                os.fsync(folder)
        except OutputError as error:
            error.file = path
            raise
        finally:
            if temporary is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def output_errors(path: str) -> Iterator[None]:
    """Turn an OSError of the block into an OutputError that names `path` and keeps errno."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        failure = OutputError(f"cannot write: {error.strerror or error}", file=path)
        failure.errno = error.errno
        raise failure from error


def _check_target(folder: int, name: str, path: str, overwrite: bool) -> None:
    if name in ("", ".", ".."):
        raise OutputError("not a file name", file=path)
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise OutputError("the target is not a regular file", file=path)
    if not overwrite:
        raise _exists(path)


def _exists(path: str) -> OutputError:
    error = OutputError("the file exists", file=path)
    error.errno = errno.EEXIST
    return error


def _open_temporary(folder: int, name: str) -> tuple[str | None, int]:
    """An unnamed file in `folder`, or a locked one with a name nobody else has where the file system lacks those."""
    try:
        return None, os.open(f"/proc/self/fd/{folder}", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    temporary = _unique(name)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o666, dir_fd=folder)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return temporary, fd


def _unique(name: str) -> str:
    return f".{name[:100]}.{secrets.token_hex(8)}{_SUFFIX}"


def _publish(folder: int, fd: int, temporary: str | None, name: str, overwrite: bool) -> None:
    source = temporary if temporary is not None else f"/proc/self/fd/{fd}"
    if not overwrite:
        try:
            os.link(source, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
        except FileExistsError as error:
            raise _exists(name) from error
        return
    if temporary is None:
        # A link cannot replace: the file gets a passing name, which the next writer here sweeps after a kill.
        fcntl.flock(fd, fcntl.LOCK_EX)
        passing = _unique(name)
        os.link(source, passing, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
        source = passing
    os.replace(source, name, src_dir_fd=folder, dst_dir_fd=folder)


def _sweep(folder: int, name: str) -> None:
    """Remove temporary files of `name` whose writer is dead: nobody holds their lock."""
    prefix = f".{name[:100]}."
    for found in os.listdir(folder):
        if not (found.startswith(prefix) and found.endswith(_SUFFIX) and len(found) == len(prefix) + 16 + len(_SUFFIX)):
            continue
        try:
            fd = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        except OSError:
            continue  # somebody else's, or just gone: never ours to judge
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(found, dir_fd=folder)
        except OSError:
            continue
        finally:
            os.close(fd)
