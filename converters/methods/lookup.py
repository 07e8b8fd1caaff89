"""`nf4` and `fp4`: bitsandbytes' 4-bit tables in flat blocks (QLoRA, arXiv 2305.14314 §3), its numbers bit for bit.

    weight = absmax · table[code],   code = number of thresholds below weight · (1 / absmax)

Thresholds are the midpoints of the sorted table. Blocks run over the flattened tensor and may cross rows; where they
do not, they are ordinary groups of one row. `double_quant` stores the block maxima as 8-bit codes of the dynamic map
around their mean: absmax = map[code] · absmax₂ + mean, in blocks of 256.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from math import gcd, lcm

import numpy as np

from qformat.codings import tables
from qformat.codings.grammar import Block, Dense, Flat, Lookup
from qformat.converters.methods import lanes, native
from qformat.converters.methods.base import Array, Coded, Kernel, Method, Option, Options, Shape, State
from qformat.schemes import Scheme

NESTED = 256
_SMALLEST = np.float32(1e-38)

# bitsandbytes finds nested codes through a grid of 2^16 points over [−1, 1]: near a threshold that decides.
_GRID = 65535

OPTIONS = {
    "bits": Option(4, (4,)),
    "group_size": Option(64, (32, 64, 128, 256, 512, 1024, 2048, 4096)),
    "double_quant": Option(False, (False, True)),
}


def sorted_codes(table: Array) -> Array:
    """Codes in the order of their values; of two equal ones (FP4's zeros) the smaller first."""
    return np.argsort(table, kind="stable").astype(np.uint8)


def thresholds(table: Array) -> Array:
    """Midpoints of the sorted table, float32."""
    ordered = table[sorted_codes(table)]
    return (ordered[:-1] + ordered[1:]) / np.float32(2)


def lookup_loop(weight: Array, block: int, bounds: Array, table: Array, order: Array) -> tuple[Array, Array]:
    """Twin of the native loop: codes uint8 in the shape of the weight, block maxima float32.

    The last block, if it is short, is divided by its maximum instead of multiplied by the inverse, and its maximum is
    at least 1e-38: so does bitsandbytes.
    """
    flat = weight.reshape(-1)
    whole = flat.size // block * block
    blocks, rest = flat[:whole].reshape(-1, block), flat[whole:]
    largest = np.abs(blocks).max(axis=1, initial=0)
    scaled = (blocks * (np.float32(1) / np.maximum(largest, _SMALLEST))[:, None]).reshape(-1)
    if rest.size:
        last = np.maximum(np.abs(rest).max(), _SMALLEST)
        scaled, largest = np.concatenate([scaled, rest / last]), np.append(largest, last)
    rank = np.searchsorted(bounds, lanes.clip(scaled, -1, 1), side="left")
    return order[rank].reshape(weight.shape), largest.astype(np.float32)


def measure_loop(weight: Array, block: int, table: Array, codes: Array, scales: Array) -> Array:
    """Twin of the native loop: the errors of each row, (n, 3), from one scale per flat block."""
    spread = np.repeat(np.asarray(scales).reshape(-1), block)[: weight.size].reshape(weight.shape)
    return lanes.measure_matrix(weight, spread * table[codes])


@cache
def _nearest_on_grid() -> Array:
    """For each grid point the code of the nearest entry of the dynamic map."""
    table = tables.values("dynamic8")
    points = (-1 + 2 * np.arange(_GRID + 1) / _GRID).astype(np.float32)
    return np.searchsorted((table[:-1] + table[1:]) / np.float32(2), points).astype(np.uint8)


def nest(largest: Array, mean: float) -> dict[str, Array]:
    """Block maxima (flat) as codes of the dynamic map around `mean`: `codes`, `scales` and `offset`, all flat."""
    residual = largest - np.float32(mean)
    count = -(-residual.size // NESTED)
    blocks = np.pad(residual, (0, count * NESTED - residual.size)).reshape(count, NESTED)
    scales = np.abs(blocks).max(axis=1)
    scaled = blocks * lanes.inverse(scales)[:, None]
    place = np.floor((scaled + np.float32(1)) * np.float32(_GRID / 2) + np.float32(0.5))
    codes = _nearest_on_grid()[np.clip(place, 0, _GRID).astype(np.int64)]
    codes[scales == 0] = 0  # as bitsandbytes; the value is the offset whatever the code is
    return {"codes": codes.reshape(-1)[: residual.size], "scales": scales, "offset": np.array([mean], np.float32)}


def unnest(nested: dict[str, Array]) -> Array:
    """The block maxima that nested codes stand for, float32, flat."""
    spread = np.repeat(nested["scales"], NESTED)[: nested["codes"].size]
    return spread * tables.values("dynamic8")[nested["codes"]] + nested["offset"]


def scheme(name: str, options: Options, shape: Shape, dtype: str) -> Scheme:
    """Panels of one-row groups where no block crosses rows, else flat blocks in the plain layout."""
    number = Dense(dtype="float32")
    size = options["group_size"]
    in_rows = shape[1] % size == 0
    scales = Lookup(bits=8, table="dynamic8", group=Flat(size=NESTED), scales=number, offset=number)
    coding = Lookup(
        bits=4,
        table=name,
        group=Block(rows=1, columns=size) if in_rows else Flat(size=size),
        scales=scales if options["double_quant"] else number,
        layout="panel" if in_rows else "plain",
    )
    return Scheme(coding=coding, method=name)


def granularity(options: Options, shape: Shape) -> int:
    """Slabs are whole panels, whole blocks, and whole blocks of block maxima."""
    run = options["group_size"] * (NESTED if options["double_quant"] else 1)
    return lcm(16, run // gcd(run, max(shape[1], 1)))


def _code_blocks(name: str, weight: Array, options: Options) -> tuple[Array, Array]:
    table = tables.values(name)
    loop = native.loop("lookup", lookup_loop)
    codes, largest = loop(weight, options["group_size"], thresholds(table), table, sorted_codes(table))
    return codes, largest


def look(name: str, weight: Array, options: Options, first_row: int, shape: Shape) -> State:
    """All block maxima, whose mean a nested scale needs."""
    return {"largest": _code_blocks(name, weight, options)[1]} if options["double_quant"] else {}


def combine(states: Sequence[State]) -> State:
    """Their mean, float32 (summed in float64)."""
    if not states[0]:
        return {}
    largest = np.concatenate([state["largest"] for state in states])
    return {"mean": float(np.float32(largest.sum(dtype=np.float64) / max(largest.size, 1)))}


def code(name: str, weight: Array, options: Options, state: State) -> Coded:
    """See the module."""
    plan = scheme(name, options, weight.shape, "")
    codes, largest = _code_blocks(name, weight, options)
    size = options["group_size"]
    number = (len(weight), weight.shape[1] // size) if weight.shape[1] % size == 0 else (1, largest.size)
    arrays, decoded = {"codes": codes}, largest
    if options["double_quant"]:
        nested = nest(largest, state["mean"])
        decoded = unnest(nested)
        arrays["scales.codes"] = nested["codes"].reshape(number)
        arrays["scales.scales"], arrays["scales.offset"] = nested["scales"][None], nested["offset"][None]
    else:
        arrays["scales"] = largest.reshape(number)
    errors = native.loop("measure_lookup", measure_loop)(weight, size, tables.values(name), codes, decoded)
    return Coded(plan, (), arrays, errors)


def _method(name: str) -> Method:
    return Method(
        name=name,
        options=OPTIONS,
        scheme=partial(scheme, name),
        code=partial(code, name),
        granularity=granularity,
        look=partial(look, name),
        combine=combine,
        two_pass=lambda options: bool(options["double_quant"]),
        kernel=lambda options: None if options["double_quant"] else Kernel("lookup_rows", table=name),
    )


NF4 = _method("nf4")
FP4 = _method("fp4")
