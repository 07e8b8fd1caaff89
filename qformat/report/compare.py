"""What differs between two models: structure first, then the values of every tensor that both have.

A side is a .qf file or a source checkpoint. Relative differences are ‖a − b‖ / ‖b‖ in the Frobenius norm: B is the
reference, so `compare(file, source)` measures the error of the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from qformat.errors import QFormatError, UnsupportedError
from qformat.report.overview import Row
from qformat.report.sides import Side, open_side

TILE = 1 << 22  # weights compared at a time, so that memory stays small whatever the tensor

Kind = Literal["same", "only in A", "only in B", "shape", "dtype", "stored", "values", "unreadable"]


@dataclass(frozen=True)
class TensorDifference:
    """How one tensor differs. The numbers are None unless values were compared."""

    name: str
    kind: Kind
    a: Row | None
    b: Row | None
    max_abs: float | None = None
    relative: float | None = None
    reason: str = ""

    @property
    def differs(self) -> bool:
        """Whether this is a difference at all (another way of storing equal values is none)."""
        return self.kind != "same"


@dataclass(frozen=True)
class Comparison:
    """All differences of two models."""

    a: str
    b: str
    tensors: list[TensorDifference]
    metadata: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # key → (in A, in B), None where it is absent
    attachments: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)  # name → sizes

    def differs(self, tolerance: float = 0.0) -> bool:
        """Whether anything differs: values only count beyond a relative difference of `tolerance`."""
        return bool(self.metadata or self.attachments) or any(beyond(each, tolerance) for each in self.tensors)


def beyond(each: TensorDifference, tolerance: float) -> bool:
    """Whether a tensor differs by more than is tolerated."""
    if each.kind != "values":
        return each.differs
    return each.relative is None or not each.relative <= tolerance  # NaN is never tolerated


def compare(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    values: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Compare two models, each a .qf file or a checkpoint (directory, safetensors file or hub id).

    Metadata and attachments are compared when both are .qf files. `progress` is called with weights done, weights in
    all, and the name of the tensor.
    """
    with ExitStack() as stack:
        left = stack.enter_context(open_side(a))
        right = stack.enter_context(open_side(b))
        tensors = list(_tensors(left, right, values, progress))
        both = left.is_file and right.is_file
        return Comparison(
            left.label,
            right.label,
            tensors,
            _changed(left.metadata, right.metadata) if both else {},
            _sizes(left.attachments, right.attachments) if both else {},
        )


def _tensors(
    a: Side, b: Side, values: bool, progress: Callable[[int, int, str], None] | None
) -> Iterator[TensorDifference]:
    rows_a, rows_b = a.rows(), b.rows()
    total = sum(math.prod(row.shape) for name, row in rows_a.items() if name in rows_b)
    done = 0
    for name, row in rows_a.items():
        other = rows_b.get(name)
        if other is None:
            yield TensorDifference(name, "only in A", row, None)
            continue
        if progress is not None:
            progress(done, total, name)
        yield _tensor(a, b, name, row, other, values)
        done += math.prod(row.shape)
    for name, row in rows_b.items():
        if name not in rows_a:
            yield TensorDifference(name, "only in B", None, row)


def _tensor(a: Side, b: Side, name: str, row: Row, other: Row, values: bool) -> TensorDifference:
    if row.shape != other.shape:
        return TensorDifference(name, "shape", row, other)
    kind: Kind = "same"
    if row.stored.dtype != other.stored.dtype:
        kind = "dtype"
    elif a.is_file and b.is_file and a.scheme(name) != b.scheme(name):
        kind = "stored"
    if not values:
        return TensorDifference(name, kind, row, other)
    digest = a.digest(name)
    if kind == "same" and digest is not None and digest == b.digest(name) and row.target is other.target is None:
        return TensorDifference(name, kind, row, other, 0.0, 0.0)
    try:
        max_abs, relative = _measure(a, b, name, row.shape)
    except UnsupportedError as error:  # a coding that this version lacks must not hide the other tensors
        return TensorDifference(name, "unreadable", row, other, reason=str(error))
    kind = "values" if kind == "same" and max_abs != 0 else kind
    return TensorDifference(name, kind, row, other, max_abs, relative)


def _measure(a: Side, b: Side, name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """(largest absolute difference, relative Frobenius difference); equal infinities and NaNs are no difference."""
    length = shape[0] if shape else 1
    step = length or 1 if len(shape) < 2 else max(TILE // max(math.prod(shape[1:]), 1), 1)
    largest, squared, norm = 0.0, 0.0, 0.0
    for start in range(0, length, step):
        stop = min(start + step, length)
        x = np.atleast_1d(np.asarray(a.values(name, start, stop), np.float32))
        y = np.atleast_1d(np.asarray(b.values(name, start, stop), np.float32))
        if x.shape != y.shape:
            raise QFormatError("decoded to unequal shapes", tensor=name, expected=x.shape, found=y.shape)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(x.astype(np.float64) - y)
        difference[(x == y) | (np.isnan(x) & np.isnan(y))] = 0.0
        if difference.size:
            tile = float(difference.max())
            largest = tile if math.isnan(tile) else largest if math.isnan(largest) else max(largest, tile)
        squared += float(np.square(difference).sum())
        norm += float(np.square(y.astype(np.float64)[np.isfinite(y)]).sum())
    if squared == 0:
        return largest, 0.0
    return largest, math.sqrt(squared / norm) if norm else math.inf


def _changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = sorted(a.keys() | b.keys())
    return {key: (a.get(key), b.get(key)) for key in keys if key not in a or key not in b or a[key] != b[key]}


def _sizes(a: Mapping[str, bytes], b: Mapping[str, bytes]) -> dict[str, tuple[int | None, int | None]]:
    found: dict[str, tuple[int | None, int | None]] = {}
    for name in sorted(a.keys() | b.keys()):
        left, right = a.get(name), b.get(name)
        if left is None or right is None or bytes(left) != bytes(right):
            found[name] = (None if left is None else len(left), None if right is None else len(right))
    return found
