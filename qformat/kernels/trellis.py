"""Trellises in the form that the native kernels take: codes in place, stored tables as float32."""

from __future__ import annotations

import numpy as np

from qformat.codings import trellis
from qformat.codings.grammar import Trellis
from qformat.codings.parts import Arrays, Read, whole
from qformat.kernels import _native
from qformat.kernels.normal import are_normal

# As trellis.h numbers them.
_FUNCTIONS = ("1mad", "2mad", "3inst", "mcg", "mul1", "lut", "quantlut", "quantlut_sym")

# Where along the steps each weight of a tile lies, row by row.
_PLACES = {name: np.argsort(order).astype(np.uint8) for name, order in trellis.ORDERS.items()}


def view(
    coding: Trellis,
    shape: tuple[int, int],
    arrays: Arrays,
    read: Read,
    rows: range,
) -> _native.Strips | None:
    """The native view of `rows`; None if they start within a tile."""
    side = trellis.SIDE
    if rows.start % side:
        return None
    row = -(-shape[1] // side) * side * side * coding.bits // 8  # bytes of a row of tiles
    if coding.table_bits is not None:
        table = np.array(whole(arrays["table"]), np.float32, order="C")
    else:
        table = trellis.computed(coding.function)
    return _native.trellis(
        codes=read("codes", rows.start // side * row, -(-rows.stop // side) * row),
        rows=len(rows),
        inputs=shape[1],
        bits=coding.bits,
        vector=coding.vector,
        function=_FUNCTIONS.index(coding.function),
        places=_PLACES[coding.order],
        table=table.reshape(-1),
        table_bits=coding.table_bits or trellis.STATE_BITS,
        normal=are_normal(table),
    )
