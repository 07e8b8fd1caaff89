"""`sinq`: dual scaling (SINQ, arXiv 2509.22944 §2) around `ls`.

    weight = (scale · code + offset) · t,   t one factor per input

A few outlying inputs or rows stretch the range of every group that they meet. SINQ evens out the standard deviations of
rows and columns first, tile by tile (a tile is all rows × one group of inputs): sixteen times, both at once, each scale
is multiplied by its deviation over the smallest one, within [0.7, 2]; the scales of the least imbalance are kept. Row
scales fold into those of the groups, which `ls` finds anew, so only t is stored, as a transform of the input.
Deviations are estimated from rows spread evenly over a large tensor. There is no kurtosis gate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qformat import linear
from qformat.converters.methods import affine, ls, native
from qformat.converters.methods.base import Array, Coded, Method, Options, Shape, State
from qformat.converters.methods.lanes import measure_matrix
from qformat.schemes import Scheme
from qformat.transforms import Scale

ROUNDS = 16
_STEP = (0.7, 2.0)
_LOG = (-0.3, 10.0)
# Weights of a tensor that its deviations are estimated from, and rows at the least.
_SAMPLE, _SAMPLE_ROWS = 1 << 21, 128


def scheme(options: Options, shape: Shape, dtype: str) -> Scheme:
    """`ls` behind a scale of the inputs."""
    inner = ls.scheme(options, shape, dtype)
    return Scheme(coding=inner.coding, transforms=(Scale(dtype="float16"),), method="sinq")


def sampled_rows(shape: Shape) -> Array:
    """Rows that are looked at, spread evenly over all."""
    rows = min(shape[0], max(_SAMPLE // max(shape[1], 1), _SAMPLE_ROWS))
    return np.arange(rows, dtype=np.int64) * shape[0] // max(rows, 1)


def look(weight: Array, options: Options, first_row: int, shape: Shape) -> State:
    """The sampled rows of the slab, and what the scale type depends on."""
    rows = sampled_rows(shape)
    here = rows[(rows >= first_row) & (rows < first_row + len(weight))] - first_row
    group = affine.group_length(options, shape)
    return {"sample": weight[here], "group": group, "range": affine.look(weight, options, first_row, shape)}


def combine(states: Sequence[State]) -> State:
    """The factor of every input, and the range of the tensor."""
    sample = np.concatenate([state["sample"] for state in states])
    factors, extremes = input_factors(sample, states[0]["group"]), affine.combine([state["range"] for state in states])
    if extremes:
        extremes["largest"] /= float(factors.min(initial=1))  # what is coded is weight / factor
    return {**extremes, "factors": factors}


def input_factors(sample: Array, group: int) -> Array:
    """One factor per input, float16 (K,); the geometric mean of each tile's is 1."""
    factors = np.ones(sample.shape[1], np.float16)
    for left in range(0, sample.shape[1], group):
        tile = sample[:, left : left + group].astype(np.float64)
        if min(tile.shape) > 1 and np.any(tile):
            factors[left : left + group] = _tile_factors(tile)
    return factors


def _tile_factors(tile: Array) -> Array:
    """The column scales that even out a tile, float64."""
    tile = tile / np.sqrt(np.mean(tile * tile))
    columns, rows = np.zeros(tile.shape[1]), np.zeros(tile.shape[0])  # logarithms of the scales
    best, least = columns, np.inf
    target = None
    for _ in range(ROUNDS):
        even = tile * np.exp(-columns) * np.exp(-rows)[:, None]
        by_column, by_row = even.std(axis=0, ddof=1), even.std(axis=1, ddof=1)
        both = np.concatenate([by_column, by_row])
        imbalance = both.max() / max(both.min(), 1e-12)
        if imbalance >= least:
            break
        best, least = columns, imbalance
        target = np.clip(both, 1e-3, 1e3).min() + 1e-6 if target is None else target
        columns = np.clip(columns + np.log(np.clip(by_column / target, *_STEP)), *_LOG)
        rows = np.clip(rows + np.log(np.clip(by_row / target, *_STEP)), *_LOG)
    factors: Array = np.exp(best - best.mean())
    return factors


def code(weight: Array, options: Options, state: State) -> Coded:
    """See the module."""
    factors = state["factors"]
    inner = ls.code(weight / factors.astype(np.float32), options, state)
    plan = scheme(options, weight.shape, "")
    arrays = {**inner.arrays, "transforms.0.scales": factors}
    errors = native.loop("measure", measure_matrix)(weight, linear.decode(plan, weight.shape, arrays))
    return Coded(plan, (), arrays, errors)


METHOD = Method(
    name="sinq",
    options=ls.METHOD.options,
    scheme=scheme,
    code=code,
    granularity=affine.granularity,
    look=look,
    combine=combine,
    settle=affine.settle,
    two_pass=lambda options: True,
)
