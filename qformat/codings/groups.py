"""Groupings: which weights share a scale. Shapes of group arrays, and group arrays spread over the weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qformat.codings.grammar import Block, Comb, Flat, Grouping, Map
from qformat.codings.parts import Role, Window
from qformat.errors import InvalidFileError

Shape = tuple[int, int]


class Span(NamedTuple):
    """Columns [start, stop): not shared numbers but a part of the matrix itself."""

    start: int
    stop: int


def sides(group: Block, shape: Shape) -> Shape:
    """The sides of a block; a whole side of a matrix without rows or columns counts as one."""
    rows = group.rows if group.rows is not None else max(shape[0], 1)
    columns = group.columns if group.columns is not None else max(shape[1], 1)
    return rows, columns


def validate(group: Grouping, field: str) -> None:
    """Sizes must be positive."""
    sizes = (group.rows, group.columns) if isinstance(group, Block) else (_size(group),)
    for size in sizes:
        if size is not None and not 1 <= size < 2**48:
            where = f"{field}.group"
            raise InvalidFileError("group size out of range", field=where, expected="1 to 2^48-1", found=size)


def _size(group: Flat | Comb | Map) -> int:
    return group.count if isinstance(group, Map) else group.size


def array_shape(group: Grouping | Span, shape: Shape) -> Shape:
    """Shape of the arrays that hold one number per group of an (N, K) matrix; of a span, one per weight."""
    rows, columns = shape
    match group:
        case Block():
            high, wide = sides(group, shape)
            return -(-rows // high), -(-columns // wide)
        case Flat():
            return 1, -(-rows * columns // group.size)
        case Comb():
            if rows * columns % group.size:
                raise InvalidFileError("comb does not divide the matrix", field="group.size", found=group.size)
            return 1, rows * columns // group.size
        case Map():
            return rows, group.count
        case Span():
            return rows, group.stop - group.start


def roles(group: Grouping, shape: Shape) -> dict[str, Role]:
    """The array that a grouping itself stores: `groups`, for an explicit map."""
    return {"groups": Role("uint32", (shape[1],))} if isinstance(group, Map) else {}


def window(group: Grouping | Span, shape: Shape, part: Window) -> Window:
    """The rectangle of the group array that covers a non-empty rectangle of the matrix."""
    first = part.top * shape[1] + part.left
    last = (part.bottom - 1) * shape[1] + part.right - 1
    match group:
        case Block():
            high, wide = sides(group, shape)
            return Window(part.top // high, -(-part.bottom // high), part.left // wide, -(-part.right // wide))
        case Flat():
            return Window(0, 1, first // group.size, last // group.size + 1)
        case Comb():
            count = shape[0] * shape[1] // group.size
            if first // count == last // count:
                return Window(0, 1, first % count, last % count + 1)
            return Window(0, 1, 0, count)
        case Map():
            return Window(part.top, part.bottom, 0, group.count)
        case Span():
            left, right = max(part.left, group.start), min(part.right, group.stop)
            return Window(part.top, part.bottom, left - group.start, right - group.start)


def spread(
    group: Grouping | Span, shape: Shape, part: Window, values: NDArray[Any], groups: NDArray[Any] | None
) -> NDArray[Any]:
    """Group values (of `window(group, shape, part)`) for each weight of `part`; may be broadcast along a side."""
    rows, columns = np.arange(part.top, part.bottom), np.arange(part.left, part.right)
    covered = window(group, shape, part)
    match group:
        case Block():
            high, wide = sides(group, shape)
            if high != 1 and values.shape[0] != 1:
                values = values[rows // high - covered.top]
            return values if values.shape[1] == 1 else values[:, columns // wide - covered.left]
        case Flat():
            flat = rows[:, None] * shape[1] + columns
            return np.asarray(values[0][flat // group.size - covered.left])
        case Comb():
            flat = rows[:, None] * shape[1] + columns
            return np.asarray(values[0][flat % (shape[0] * shape[1] // group.size) - covered.left])
        case Map():
            assert groups is not None
            return values[:, groups[part.left : part.right]]
        case Span():
            return values


def check(group: Grouping, groups: NDArray[Any]) -> None:
    """An explicit map must point at groups that exist."""
    if isinstance(group, Map) and groups.size and int(groups.max()) >= group.count:
        column = int(groups.argmax())
        raise InvalidFileError(
            f"group of column {column} does not exist",
            field="groups",
            expected=f"below {group.count}",
            found=int(groups[column]),
        )
