"""A file as a mapping of tensors: introduces the container, the codings and the kernels to each other.

The container says whether bytes are sound; `linear` says what numbers they mean. Nothing is read until it is touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from qformat import container, schemes
from qformat.remote import is_remote
from qformat.residency import HugePages, Residency
from qformat.schemes import Scheme
from qformat.tensor import Tensor

Path = str | os.PathLike[str]


def open(path: Path, *, residency: Residency = "mmap") -> Model:
    """Open a .qf file, local or remote.

    Args:
        path: of the file, or its URL.
        residency: where products read: `mmap`, in the file's mapping, or `hugepages`, in copies on pages of 2 MiB
            that are made at a tensor's first use and belong to this process alone.

    Raises:
        ValueError: no such residency.
        QFormatError: the file is not one, is damaged, or needs a newer reader.
        OSError: it cannot be opened.
    """
    return Model(path, residency)


class Model(Mapping[str, Tensor]):
    """The tensors of a file, in its order, by their full names. Close it, or use it in a `with` statement."""

    def __init__(self, path: Path, residency: Residency = "mmap") -> None:
        if residency not in get_args(Residency):
            raise ValueError(f"residency is {residency!r}, expected one of {', '.join(get_args(Residency))}")
        self.path, self.residency = os.fspath(path), residency
        # where it is for processes that work in another directory
        self._place = self.path if is_remote(self.path) else os.path.abspath(self.path)
        self.container = container.open(self.path)
        self._copies = HugePages(self.container) if residency == "hugepages" else None
        self._schemes: dict[int, Scheme] = {}
        self._tensors: dict[str, Tensor] = {}

    @property
    def metadata(self) -> dict[str, Any]:
        """What the file says about itself: general.*, qformat.*, and whatever a source added."""
        return self.container.metadata

    @property
    def attachments(self) -> Mapping[str, bytes]:
        """Files that came with the model, by name."""
        return self.container.attachments

    @property
    def digest(self) -> str:
        """BLAKE3 over everything in the file, hexadecimal."""
        return self.container.digest

    @property
    def content_digest(self) -> str:
        """BLAKE3 over names, shapes, schemes and tensor bytes; edits of metadata do not change it."""
        return self.container.content_digest

    def scheme(self, number: int) -> Scheme:
        """A parsed scheme of the file's list.

        Raises:
            UnsupportedError, InvalidFileError: it cannot be understood; other tensors of the file still can.
        """
        if number not in self._schemes:
            self._schemes[number] = schemes.parse(self.container.schemes[number])
        return self._schemes[number]

    def extent(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor's extent, where `residency` keeps them: a view if they are stored raw."""
        return self.container.read(name) if self._copies is None else self._copies.read(name)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            if name not in self.container:
                raise KeyError(name)
            tensor = self._tensors[name] = Tensor(self, name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.container.names())

    def __len__(self) -> int:
        return len(self.container)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.container

    def close(self) -> None:
        """Give mapping and copies back; tensors of this model cannot be read any more."""
        self._tensors.clear()
        self._copies = None
        self.container.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Model], tuple[str, Residency]]:
        return Model, (self._place, self.residency)

    def __repr__(self) -> str:
        return f"<qformat.Model {self.path!r}, {len(self)} tensors>"
