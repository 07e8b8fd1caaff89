"""`lookup`: numbers from a table.

    weight = scale · table[code] + offset

All in float32, the product rounded before the offset is added. Stored tables have 2^bits entries, always, so that a
code cannot be out of range.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qformat.codings import groups, tables
from qformat.codings.grammar import Block, Lookup
from qformat.codings.parts import Arrays, Role, Window, cut, whole
from qformat.codings.protocol import Child, Spread
from qformat.errors import InvalidFileError

Shape = tuple[int, int]

WHOLE = Block(rows=None, columns=None)


def validate(coding: Lookup, field: str) -> None:
    """Bits from 1 to 8; a named table must have 2^bits entries."""
    if not 1 <= coding.bits <= 8:
        raise InvalidFileError("bits out of range", field=f"{field}.bits", expected="1 to 8", found=coding.bits)
    if coding.table not in tables.STORED:
        entries = len(tables.values(coding.table))
        if entries != 2**coding.bits:
            found = f"{coding.table} with {entries}"
            raise InvalidFileError(
                "table has another size", field=f"{field}.table", expected=2**coding.bits, found=found
            )
    groups.validate(coding.group, field)


def children(coding: Lookup, shape: Shape) -> dict[str, Child]:
    named = {}
    if coding.scales is not None:
        named["scales"] = Child(coding.scales, coding.group)
    if coding.offset is not None:
        named["offset"] = Child(coding.offset, WHOLE)
    return named


def roles(coding: Lookup, shape: Shape) -> dict[str, Role]:
    entries = 2**coding.bits
    stored = {"tensor": (entries,), "row": (shape[0], entries)}
    table = {"table": Role("float32", stored[coding.table])} if coding.table in stored else {}
    return {**table, **groups.roles(coding.group, shape), "codes": Role("uint8", shape, coding.bits)}


def decode(coding: Lookup, shape: Shape, arrays: Arrays, window: Window, spread: Spread) -> NDArray[np.float32]:
    """`scale · table[code] + offset` of a rectangle."""
    codes = cut(arrays["codes"], window)
    if coding.table == "row":
        table = cut(arrays["table"], Window(window.top, window.bottom, 0, 2**coding.bits))
        weight = np.take_along_axis(table, codes.astype(np.intp), axis=1)
    elif coding.table == "tensor":
        weight = whole(arrays["table"])[codes]
    else:
        weight = tables.values(coding.table)[codes]
    if coding.scales is not None:
        weight = spread("scales") * weight
    if coding.offset is not None:
        weight = weight + spread("offset")
    return weight


def check(coding: Lookup, shape: Shape, arrays: Arrays) -> None:
    """Stored tables are finite; an explicit map must stay within its groups."""
    if "table" in arrays and not np.isfinite(whole(arrays["table"])).all():
        raise InvalidFileError("table is not finite", field="table")
    if "groups" in arrays:
        groups.check(coding.group, whole(arrays["groups"]))
