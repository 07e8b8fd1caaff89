"""The data of a source: where each tensor's bytes lie, and reading rows of one."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qformat import dtypes
from qformat.errors import ChangedError, SourceError


@dataclass(frozen=True)
class FileId:
    """A file as it was when the source was opened: a later read of something else is a ChangedError."""

    path: str
    name: str
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path, name: str | None = None) -> FileId:
        """Identify the regular file at `path`; SourceError for anything else (a FIFO would block for ever)."""
        try:
            found = os.stat(path)
        except OSError as error:
            raise SourceError(f"cannot be read: {error.strerror}", file=str(path)) from error
        if not stat.S_ISREG(found.st_mode):
            raise SourceError("not a regular file", file=str(path))
        return cls(str(path), name or path.name, found.st_size, found.st_mtime_ns, found.st_ino)

    def __reduce__(self) -> tuple[Any, ...]:
        # the process that gets it may work in another directory
        return FileId, (os.path.abspath(self.path), self.name, self.size, self.mtime_ns, self.inode)

    def matches(self, found: os.stat_result) -> bool:
        return (found.st_size, found.st_mtime_ns, found.st_ino) == (self.size, self.mtime_ns, self.inode)


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of a checkpoint: `nbytes` little-endian bytes of `dtype` in C order at `offset` of `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: FileId
    offset: int
    nbytes: int

    @property
    def size(self) -> int:
        return prod(self.shape)

    def matrix_shape(self, transposed: bool = False) -> tuple[int, int]:
        """(N, K) of the coded matrix: K is the last dimension, after swapping the last two when `transposed`."""
        shape = self.shape
        if transposed:
            shape = (*shape[:-2], shape[-1], shape[-2])
        if not shape:
            return 1, 1
        return (prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (1, shape[0])

    def read_bytes(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """Bytes [start, stop) of the tensor in an owned array."""
        stop = self.nbytes if stop is None else stop
        out = np.empty(stop - start, np.uint8)
        _read_into(self, self.offset + start, memoryview(out))
        return out

    def read_rows(self, start: int, stop: int, transposed: bool = False) -> npt.NDArray[Any]:
        """Rows [start, stop) of the coded matrix, (stop - start, K), in the tensor's own dtype."""
        _, columns = self.matrix_shape(transposed)
        if not transposed:
            step = columns * dtypes.itemsize(self.dtype)
            raw = self.read_bytes(start * step, stop * step)
            return raw.view(dtypes.numpy_dtype(self.dtype)).reshape(stop - start, columns)
        parts = [self._read_columns(e, a, b) for e, a, b in _split_by_matrix(start, stop, self.shape[-1])]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read_columns(self, matrix: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Columns [start, stop) of the `matrix`-th (in, out) matrix, returned as (stop - start, in)."""
        inner, outer = self.shape[-2:]
        item = dtypes.itemsize(self.dtype)
        out = np.empty((inner, (stop - start) * item), np.uint8)
        first = self.offset + matrix * inner * outer * item
        if stop - start == outer:
            _read_into(self, first, memoryview(out.reshape(-1)))
        else:
            for row in range(inner):
                _read_into(self, first + (row * outer + start) * item, memoryview(out[row]))
        return np.ascontiguousarray(out.view(dtypes.numpy_dtype(self.dtype)).T)


def _split_by_matrix(start: int, stop: int, rows: int) -> list[tuple[int, int, int]]:
    """Rows [start, stop) of stacked matrices of `rows` rows each → [(matrix, first row, last row + 1)]."""
    pieces = []
    while start < stop:
        matrix, first = divmod(start, rows)
        last = min(rows, first + stop - start)
        pieces.append((matrix, first, last))
        start += last - first
    return pieces


def _read_into(tensor: SourceTensor, offset: int, target: memoryview) -> None:
    """Fill `target` from the tensor's file by pread, so that a file that shrinks is an error and not a SIGBUS."""
    opened = _open(tensor.file, os.getpid())  # held while it is used: another thread may clear the cache
    descriptor = opened.number
    if not tensor.file.matches(os.fstat(descriptor)):
        raise ChangedError("the source changed while it was being read", file=tensor.file.path, tensor=tensor.name)
    done = 0
    while done < len(target):
        try:
            count = os.preadv(descriptor, [target[done:]], offset + done)
        except OSError as error:
            raise SourceError(
                f"cannot be read: {error.strerror}", file=tensor.file.path, tensor=tensor.name, offset=offset + done
            ) from error
        if count == 0:
            raise ChangedError("the source ends early", file=tensor.file.path, tensor=tensor.name, offset=offset + done)
        done += count


class _Descriptor:
    """An open file that closes when the cache lets go of it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


@lru_cache(maxsize=16)
def _open(file: FileId, process: int) -> _Descriptor:
    del process  # part of the key: a forked child opens its own
    return _Descriptor(open_regular(Path(file.path)))


def close_files() -> None:
    """Let go of every source file that this process has open."""
    _open.cache_clear()


def open_regular(path: Path) -> int:
    """A read-only descriptor of a regular file, never blocking on a FIFO and never reading a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"cannot be opened: {error.strerror}", file=str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SourceError("not a regular file", file=str(path))
    return descriptor


@dataclass(frozen=True)
class Source:
    """A checkpoint: tensors by name, side files to attach, and what the configuration says."""

    label: str  # what messages call it; never stored in a file
    tensors: Mapping[str, SourceTensor]
    files: tuple[FileId, ...]
    attachments: Mapping[str, FileId] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    hub_id: str | None = None
    revision: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def model_type(self) -> str | None:
        return self.config.get("model_type")

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def aliases(self) -> dict[str, str]:
        """Tensors that are the same bytes as an earlier one → that one's name (tied weights of a torch file)."""
        seen: dict[tuple[object, ...], str] = {}
        found = {}
        for name, tensor in self.tensors.items():
            key = (tensor.file.path, tensor.offset, tensor.dtype, tensor.shape)
            if tensor.nbytes and seen.setdefault(key, name) != name:
                found[name] = seen[key]
        return found
