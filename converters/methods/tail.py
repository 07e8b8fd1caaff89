"""`tail`: the two-region method that some texts describe under HQQ's name, built as dense-and-sparse methods build it.

    weight = body + tail

The quantile 1 − fraction of |weight| over the tensor splits it. Weights beyond it are the tail: few, and few per group.
The body is what is left, with zeros in the places of the tail, coded by `ls`, so that no outlier stretches a group. The
tail is what the body's decoded value lacks at those places, as a sparse matrix of float16 that is added to it (compare
SqueezeLLM, arXiv 2306.07629 §4.2, and SpQR, arXiv 2306.03078 §4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qformat import linear
from qformat.converters.methods import affine, ls, native
from qformat.converters.methods.base import Array, Coded, Method, Option, Options, Shape, State
from qformat.converters.methods.lanes import measure_matrix
from qformat.corrections import Outliers
from qformat.schemes import Scheme

# Magnitudes are counted by the upper 16 bits of their float32: buckets of 1/128 of their size.
_BUCKETS = 1 << 15


def scheme(options: Options, shape: Shape, dtype: str) -> Scheme:
    """`ls` and a sparse correction of the scales' type."""
    inner = ls.scheme(options, shape, dtype)
    sparse = Outliers(dtype=affine.stored_dtype(options))
    return Scheme(coding=inner.coding, corrections=(sparse,), method="tail")


def _buckets(weight: Array) -> Array:
    return (np.abs(weight).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def look(weight: Array, options: Options, first_row: int, shape: Shape) -> State:
    """How many weights there are of each magnitude."""
    counts = np.bincount(_buckets(weight).reshape(-1), minlength=_BUCKETS)
    return {"counts": counts, "range": affine.look(weight, options, first_row, shape), "fraction": options["fraction"]}


def combine(states: Sequence[State]) -> State:
    """The first bucket of the tail: as many of the largest magnitudes as the fraction allows; and how many they are."""
    counts = np.sum([state["counts"] for state in states], axis=0)
    above = np.cumsum(counts[::-1])[::-1]  # weights of this bucket and beyond
    allowed = int(states[0]["fraction"] * int(counts.sum()))
    first = int(np.argmax(above <= allowed)) if above[-1] <= allowed else _BUCKETS
    number = int(above[first]) if first < _BUCKETS else 0
    return {**affine.combine([state["range"] for state in states]), "first": first, "number": number}


def code(weight: Array, options: Options, state: State) -> Coded:
    """See the module."""
    plan, shape = scheme(options, weight.shape, ""), weight.shape
    outlying = _buckets(weight) >= state["first"]
    inner = ls.code(np.where(outlying, np.float32(0), weight), options, state)
    body = linear.decode(ls.scheme(options, shape, ""), shape, inner.arrays)
    rows, columns = np.nonzero(outlying)
    with np.errstate(over="ignore"):
        values = (weight[rows, columns] - body[rows, columns]).astype(options["scale_dtype"]).astype(np.float32)
    arrays = {
        **inner.arrays,
        "corrections.0.row_pointers": np.concatenate([[0], np.cumsum(outlying.sum(axis=1))]).astype(np.uint32),
        "corrections.0.columns": columns.astype(np.uint32),
        "corrections.0.values": affine.narrow("value of the tail", values[None], options["scale_dtype"])[0],
    }
    body[rows, columns] += values
    errors = native.loop("measure", measure_matrix)(weight, body)
    return Coded(plan, (len(rows),), arrays, errors)


METHOD = Method(
    name="tail",
    options={
        **ls.METHOD.options,
        "fraction": Option(0.005, lambda v: isinstance(v, int | float) and 0 <= v <= 0.5, "between 0 and 0.5"),
    },
    scheme=scheme,
    code=code,
    granularity=affine.granularity,
    look=look,
    combine=combine,
    settle=affine.settle,
    count=lambda options, shape, state: (state["number"],),
    two_pass=lambda options: True,
)
