"""Where the kernels find an extent: in the file's mapping, or in private copies on huge pages.

A mapping of a file costs nothing, is shared by every process that maps the file, and is what `mmap` stands for. It has
pages of 2 MiB where the file system keeps the file in such pages (ext4 since Linux 6.16: files that `qformat convert`
wrote, or that were read from the disk), else of 4 KiB. On some machines the translations of small pages, not memory,
limit a product; `hugepages` then copies each extent at its first use into memory of this process that has large ones.
"""

from __future__ import annotations

from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qformat.container import Container
from qformat.container.sources import memory

Residency = Literal["mmap", "hugepages"]

# Memory is asked for in areas of at least this size, so that small extents share a huge page.
AREA = 64 << 20

# Extents begin on a cache line.
ALIGNMENT = 64


class HugePages:
    """Private copies of extents, each made when it is first asked for and kept as long as this object lives."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._copies: dict[str, NDArray[np.uint8]] = {}
        self._free = np.zeros(0, np.uint8)
        self._lock = Lock()

    def read(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor's extent, read-only.

        Raises:
            KeyError, IntegrityError, ChangedError: as `Container.read`.
        """
        with self._lock:  # two threads must not be given the same place
            copy = self._copies.get(name)
            if copy is None:
                stored = self._container.read(name)
                copy = self._place(len(stored))
                copy[:] = stored
                copy.flags.writeable = False
                self._copies[name] = copy
            return copy

    def _place(self, length: int) -> NDArray[np.uint8]:
        if length > len(self._free):
            self._free = memory(max(length, AREA))
        place = self._free[:length]
        self._free = self._free[-(-length // ALIGNMENT) * ALIGNMENT :]
        return place
