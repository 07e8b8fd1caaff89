"""What a model file holds, as data: one `Row` for each tensor and an `Overview` around them, whatever the format."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One tensor as it is listed. None stands where a fact has no meaning or is not recorded."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # the source's
    coding: str | None
    method: str | None
    bits: int | None
    group_size: int | None
    nbytes: int
    error: float | None
    max_error: float | None
    scheme: str  # equal schemes mean equally stored
    target: str | None = None  # an alias names the tensor that it stands for
    label: str = ""  # how to call the way it is stored, where the facts above do not say it

    @property
    def weights(self) -> int:
        """How many numbers are stored here: none for an alias."""
        return 0 if self.target is not None else math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float | None:
        """Stored bits divided by weights."""
        weights = self.weights
        return 8 * self.nbytes / weights if weights else None

    @property
    def stored_as(self) -> str:
        """A short label: `hqq 4-bit g64`, `bfloat16`, `tied`."""
        if self.target is not None:
            return "tied"
        if self.label:
            return self.label
        if self.coding in ("dense", None):
            return self.dtype
        parts = [self.method or self.coding or ""]
        if self.bits is not None and not parts[0].endswith(str(self.bits)):
            parts.append(f"{self.bits}-bit")
        if self.group_size is not None:
            parts.append(f"g{self.group_size}")
        return " ".join(parts)


@dataclass(frozen=True)
class Attachment:
    """A file carried along: its name and size."""

    name: str
    nbytes: int


class Overview:
    """A whole model file or set of files; the rows are made when they are first asked for.

    `rows` may be a sequence or a function that makes one, so that a title can be shown before a million rows exist.
    """

    def __init__(
        self,
        path: str,
        format: str,
        version: str | None,
        total_bytes: int,
        rows: Sequence[Row] | Callable[[], Sequence[Row]],
        metadata: Mapping[str, Any] | None = None,
        *,
        digest: str | None = None,
        content_digest: str | None = None,
        attachments: Sequence[Attachment] = (),
        files: Sequence[str] = (),
    ) -> None:
        self.path, self.format, self.version, self.total_bytes = path, format, version, total_bytes
        self.metadata: Mapping[str, Any] = metadata or {}
        self.digest, self.content_digest = digest, content_digest
        self.attachments, self.files = attachments, files  # files: the shards, when there are several
        self._rows = rows

    @cached_property
    def rows(self) -> Sequence[Row]:
        """One row for each tensor, in the file's order."""
        return self._rows() if callable(self._rows) else self._rows

    @cached_property
    def weights(self) -> int:
        """Numbers stored in all tensors, aliases not counted twice."""
        return sum([row.weights for row in self.rows])

    @cached_property
    def tensor_bytes(self) -> int:
        """Stored bytes of all tensors."""
        return sum([row.nbytes for row in self.rows])

    @property
    def bits_per_weight(self) -> float | None:
        """Stored bits of all tensors divided by their weights."""
        return 8 * self.tensor_bytes / self.weights if self.weights else None

    def row(self, name: str) -> Row | None:
        """The row of the tensor `name`, or None."""
        return next((row for row in self.rows if row.name == name), None)
