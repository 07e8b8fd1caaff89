"""Rows of a checkpoint straight into panels, in one native pass: widened, looked at, coded, measured and packed while
they are in the cache.

It does what `Method.survey`, `Method.quantize` and `packing.pack` do one after the other, bit for bit; those are the
definition and take over wherever this does not apply: other layouts, weights that are not finite, scales that overflow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qformat import linear
from qformat.codings import tables
from qformat.codings.panel import Panels
from qformat.converters.methods import affine, lookup, native
from qformat.converters.methods.base import Array, Kernel, Method, Options, State
from qformat.schemes import Scheme

_SOURCES = ("bfloat16", "float16", "float32")


class Table(NamedTuple):
    """A table of sixteen: thresholds between its sorted values, these, and their codes."""

    bounds: Array
    values: Array
    order: Array


class Pass(NamedTuple):
    """What a pass over a slab is told: the loop, the panels to make, and below which weight a group counts as small."""

    kernel: Kernel
    panels: Panels
    table: Table
    half: bool
    limit: float


class Fused(NamedTuple):
    """The bytes of all panels, the errors of each row (n, 3), and the state of the slab."""

    panels: Array
    errors: Array
    state: State


def table_of(name: str) -> Table:
    """The table called `name`, sorted."""
    values, order = tables.values(name), lookup.sorted_codes(tables.values(name))
    return Table(lookup.thresholds(values), values[order], order)


def plan(method: Method, options: Options, scheme: Scheme, raw: Array) -> Pass | None:
    """The pass that codes the rows `raw` of a checkpoint, if there is one."""
    kernel = method.kernel(options)
    if kernel is None or native.active() == "reference" or raw.dtype.name not in _SOURCES or raw.size == 0:
        return None
    panels = linear.panels(scheme, raw.shape)
    if panels is None or set(linear.layout(scheme, raw.shape).places) != {"panels"}:
        return None
    limit = affine.small_group(options) if "scale_dtype" in options else 0.0
    half = panels.beside["scales"].dtype == "float16"
    return Pass(kernel, panels, table_of(kernel.table), half, limit)


def code(method: Method, options: Options, scheme: Scheme, raw: Array) -> Fused | None:
    """Code the rows `raw` (n, K); None where the long way must be taken. `options` name a definite scale type."""
    work = plan(method, options, scheme, raw)
    if work is None:
        return None
    out = np.empty(work.panels.nbytes, np.uint8)
    found = native.slab(work, np.ascontiguousarray(raw), out)
    if found is None:
        return None
    errors, (largest, small) = found
    return Fused(out, errors, {"largest": largest, "small": small})
