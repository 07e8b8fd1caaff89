"""A table of an index whose rows are read when somebody asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray

from qformat.container import forward
from qformat.container.forward import Held, Readable
from qformat.container.sources import LARGE, memory
from qformat.errors import ChangedError

_FEW = 16  # rows that are worth less than a whole table


class Table:
    """`count` rows of `dtype` from byte `start` of a source on, all of which have been checked once.

    They are read again in blocks, into memory of this process alone, and believed if a block has the digest that it had
    when it was checked: another process may write to the file meanwhile, but nothing unchecked is ever used.
    """

    def __init__(self, source: Readable, start: int, count: int, dtype: np.dtype[Any], sums: Sequence[bytes]) -> None:
        self._source, self._start, self._count, self._dtype, self._sums = source, start, count, dtype, sums
        self._step = forward.BLOCK // dtype.itemsize
        self._blocks: dict[int, NDArray[Any]] = {}
        self._whole: NDArray[Any] | None = None
        if isinstance(source, Held):
            self._whole = source.pread(start, count * dtype.itemsize).view(dtype)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> np.void:
        """One row.

        Raises:
            ChangedError: the file is no longer what was checked.
        """
        if self._whole is not None:
            found: np.void = self._whole[row]
        else:
            found = self._block(row // self._step)[row % self._step]
        return found

    def rows(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Some rows, by their numbers."""
        few = self._whole is None and len(rows) <= _FEW
        return np.array([self[row] for row in rows.tolist()], self._dtype) if few else self.whole()[rows]

    def whole(self) -> NDArray[Any]:
        """All rows."""
        if self._whole is None:
            whole = memory(self._count * self._dtype.itemsize, LARGE).view(self._dtype)
            for number in range(len(self._sums)):
                whole[number * self._step : (number + 1) * self._step] = self._block(number)
            self._whole = whole
            self._blocks.clear()
        return self._whole

    def _block(self, number: int) -> NDArray[Any]:
        found = self._blocks.get(number)
        if found is None:
            first = number * self._step
            size = (min(first + self._step, self._count) - first) * self._dtype.itemsize
            raw = self._source.pread(self._start + number * forward.BLOCK, size)
            if blake3.blake3(raw).digest() != self._sums[number]:
                at = self._start + number * forward.BLOCK
                raise ChangedError("the file changed while it was open", file=self._source.path, offset=at)
            raw.setflags(write=False)
            found = raw.view(self._dtype)
            self._blocks[number] = found
        return found
