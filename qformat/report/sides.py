"""The two kinds of models that `compare` knows: .qf files and source checkpoints."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qformat.remote import is_remote
from qformat.report.byte_source import LocalBytes
from qformat.report.overview import Row, Stored
from qformat.report.safetensors_header import looks_like_safetensors

if TYPE_CHECKING:
    from qformat.store import Model


class Side(Protocol):
    """One of the two models."""

    label: str
    is_file: bool  # a .qf file, with metadata and attachments of its own
    metadata: Mapping[str, Any]
    attachments: Mapping[str, bytes]

    def rows(self) -> dict[str, Row]:
        """What is listed of each tensor, in order."""

    def scheme(self, name: str) -> object:
        """How the tensor is stored, comparable between files; None for a checkpoint."""

    def digest(self, name: str) -> bytes | None:
        """The hash of the stored bytes, where there is one."""

    def values(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Float32 values of [start, stop) along the first dimension; the whole tensor when it has fewer than two."""


@contextmanager
def open_side(path: str | os.PathLike[str]) -> Iterator[Side]:
    """The model at `path`: a checkpoint if it is a directory, a safetensors or torch file or a hub id, else a .qf."""
    name = os.fspath(path)
    if _is_checkpoint(name):
        from qformat.converters.sources import open_source

        yield Checkpoint(name, open_source(name, trust_quantized=True))
        return
    from qformat import store

    with store.open(name) as model:
        yield QFile(name, model)


def _is_checkpoint(name: str) -> bool:
    if is_remote(name) or name.endswith(".qf"):
        return False
    if not os.path.exists(name):  # a hub id, unless it looks like a path
        return os.sep in name and name.count(os.sep) == 1 and not name.startswith((".", os.sep))
    if os.path.isdir(name) or name.endswith((".bin", ".pt", ".pth")):
        return True
    source = LocalBytes(name)
    try:
        return looks_like_safetensors(source)
    finally:
        source.close()


class QFile:
    """A .qf file as one side of a comparison."""

    is_file = True

    def __init__(self, label: str, model: Model) -> None:
        self.label, self._model = label, model
        self.metadata: Mapping[str, Any] = model.metadata
        self.attachments: Mapping[str, bytes] = model.attachments

    def rows(self) -> dict[str, Row]:
        """What is listed of each tensor."""
        from qformat.report import own_file

        return {row.name: row for row in own_file.rows(self._model.container)}

    def scheme(self, name: str) -> object:
        """The scheme as it stands in the index."""
        return self._model.container.schemes[self._model.container.record(name).scheme]

    def digest(self, name: str) -> bytes | None:
        """The hash of the stored bytes."""
        return self._model.container.record(name).digest

    def values(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Float32 values of [start, stop) along the first dimension; the whole tensor when it has fewer than two."""
        tensor = self._model[name]
        return tensor.decode() if len(tensor.shape) < 2 else tensor.decode(rows=slice(start, stop))


class Checkpoint:
    """A source checkpoint as one side of a comparison."""

    is_file = False
    metadata: Mapping[str, Any] = {}
    attachments: Mapping[str, bytes] = {}

    def __init__(self, label: str, source: Any) -> None:
        self.label, self._tensors = label, source.tensors

    def rows(self) -> dict[str, Row]:
        """What is listed of each tensor."""
        rows = {}
        for name, tensor in self._tensors.items():
            stored = Stored(tensor.dtype, tensor.dtype, "dense", None, None, None, tensor.dtype)
            rows[name] = Row(name, tensor.shape, math.prod(tensor.shape), tensor.nbytes, stored)
        return rows

    def scheme(self, name: str) -> object:
        """A checkpoint has no schemes."""
        return None

    def digest(self, name: str) -> bytes | None:
        """A checkpoint has no hashes."""
        return None

    def values(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Float32 values of [start, stop) along the first dimension; the whole tensor when it has fewer than two."""
        tensor = self._tensors[name]
        inner = tensor.shape[1:] if len(tensor.shape) > 1 else ()
        between = math.prod(tensor.shape[1:-1])  # rows of the matrix to one step of the first dimension
        if len(tensor.shape) < 2:
            return np.asarray(tensor.read_rows(0, 1), np.float32).reshape(tensor.shape)
        return np.asarray(tensor.read_rows(start * between, stop * between), np.float32).reshape(stop - start, *inner)
