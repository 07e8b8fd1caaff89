"""What a model file holds, as data: one `Row` for each tensor and an `Overview` around them, whatever the format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple


class Stored(NamedTuple):
    """How tensors are stored: one object for all that are stored alike."""

    key: str  # equal keys mean: of the same dtype and stored alike
    dtype: str  # the source's
    coding: str | None
    method: str | None
    bits: int | None
    group_size: int | None
    label: str  # how that is called: `hqq 4-bit g64`, `bfloat16`


class Row(NamedTuple):
    """One tensor as it is listed. None stands where a fact has no meaning or is not recorded."""

    name: str
    shape: tuple[int, ...]
    weights: int  # how many numbers are stored here: none for an alias
    nbytes: int  # of an alias: those of its target, which are counted there
    stored: Stored
    error: float | None = None  # relative, in the Frobenius norm
    max_error: float | None = None
    target: str | None = None  # an alias names the tensor that it stands for

    @property
    def bits_per_weight(self) -> float | None:
        """Stored bits divided by weights."""
        return 8 * self.nbytes / self.weights if self.weights else None

    @property
    def stored_as(self) -> str:
        """The label, or `tied` for an alias."""
        return self.stored.label if self.target is None else "tied"


class Kind:
    """All tensors that are stored alike, added up."""

    __slots__ = ("nbytes", "tensors", "weights")

    def __init__(self) -> None:
        self.weights = self.nbytes = self.tensors = 0


class Totals:
    """Sums over all rows, made in one pass."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.weights = self.nbytes = self.aliases = 0
        self.kinds: dict[str, Kind] = {}  # by label
        self.worst: Row | None = None  # the row of the largest error
        measured, error_sum, worst = 0, 0.0, -1.0
        for row in rows:
            if row.target is not None:
                self.aliases += 1
                continue
            weights = row.weights
            self.nbytes += row.nbytes
            self.weights += weights
            label = row.stored.label
            kind = self.kinds.get(label)
            if kind is None:
                kind = self.kinds[label] = Kind()
            kind.weights += weights
            kind.nbytes += row.nbytes
            kind.tensors += 1
            error = row.error
            if error is not None and row.stored.coding != "dense":
                measured += weights
                error_sum += error * weights
                if error > worst:
                    worst, self.worst = error, row
        self.mean_error = error_sum / measured if measured else None  # weighted by weights


class Attachment(NamedTuple):
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
        content_digest: Callable[[], str] | None = None,
        attachments: Sequence[Attachment] = (),
        files: Sequence[str] = (),
    ) -> None:
        self.path, self.format, self.version, self.total_bytes = path, format, version, total_bytes
        self.metadata: Mapping[str, Any] = metadata or {}
        self.digest, self._content_digest = digest, content_digest
        self.attachments, self.files = attachments, files  # files: the shards, when there are several
        self._rows = rows

    @cached_property
    def rows(self) -> Sequence[Row]:
        """One row for each tensor, in the file's order."""
        return self._rows() if callable(self._rows) else self._rows

    @property
    def content_digest(self) -> str | None:
        """The digest that edits of metadata leave alone, where the format has one; reads all of the index."""
        return self._content_digest() if self._content_digest is not None else None

    @cached_property
    def totals(self) -> Totals:
        """Sums over the rows."""
        return Totals(self.rows)

    @property
    def weights(self) -> int:
        """Numbers stored in all tensors, aliases not counted twice."""
        return self.totals.weights

    @property
    def bits_per_weight(self) -> float | None:
        """Stored bits of all tensors divided by their weights."""
        totals = self.totals
        return 8 * totals.nbytes / totals.weights if totals.weights else None

    def row(self, name: str) -> Row | None:
        """The row of the tensor `name`, or None."""
        return next((row for row in self.rows if row.name == name), None)
