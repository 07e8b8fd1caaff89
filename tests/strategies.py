"""Hypothesis strategies, all in one place: codings, shapes and arrays that fit them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from qformat import codings, linear, schemes, transforms
from qformat.codings import lattice, tables, trellis
from qformat.codings.grammar import (
    Additive,
    Affine,
    Block,
    Coding,
    Comb,
    Dense,
    Flat,
    Grouping,
    Lattice,
    Lookup,
    Map,
    Split,
    Trellis,
)
from qformat.codings.groups import array_shape
from qformat.dtypes import TABLE as DTYPES
from qformat.dtypes import numpy_dtype

FLOATS = ("float16", "bfloat16", "float32")


class Coded(NamedTuple):
    """A coding, the matrix shape it codes and arrays for all of its roles."""

    coding: Coding
    shape: tuple[int, int]
    arrays: dict[str, NDArray[Any]]


def shapes(most_rows: int = 70, most_columns: int = 330) -> st.SearchStrategy[tuple[int, int]]:
    """Matrices (N, K): small, odd, prime and whole multiples of the panel's sizes."""
    rows = st.one_of(st.integers(1, most_rows), st.sampled_from([1, 15, 16, 17, 32, 64]))
    columns = st.one_of(st.integers(1, most_columns), st.sampled_from([1, 16, 63, 64, 65, 128, 172, 256]))
    return st.tuples(rows, columns)


def arrays_for(coding: Coding, shape: tuple[int, int], seed: int) -> dict[str, NDArray[Any]]:
    """Random arrays for every role: codes over their whole range, floats of the size that scales and zeros have."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    for name, role in codings.roles(coding, shape).items():
        dtype = numpy_dtype(role.dtype)
        if role.bits is not None:
            low = -(2 ** (role.bits - 1)) if role.signed else 0
            arrays[name] = rng.integers(low, low + 2**role.bits, role.shape).astype(dtype)
        elif name.startswith("zeros"):
            arrays[name] = rng.uniform(-300, 300, role.shape).astype(dtype)
        elif np.issubdtype(dtype, np.integer):
            arrays[name] = rng.integers(0, 4, role.shape).astype(dtype)
        else:
            arrays[name] = (rng.standard_normal(role.shape) * 0.05).astype(dtype)
    return arrays


@st.composite
def panel_codings(draw: st.DrawFn) -> Coding:
    """Affine and lookup codings that lie in panels: every width, group size, kind of scale and of zero."""
    group = Block(rows=1, columns=draw(st.sampled_from([16, 32, 48, 64, 96, 128, None])))
    bits = draw(st.integers(1, 8))
    scales: Coding = Dense(dtype=draw(st.sampled_from(FLOATS)))
    if draw(st.integers(0, 4)) == 0:  # nested, as in K-quants and double quantization
        scales = Affine(bits=draw(st.integers(1, 8)), group=Block(rows=1, columns=8), scales=Dense(dtype="float16"))
    if draw(st.booleans()):
        named = {4: "nf4", 8: "dynamic8"}.get(bits, "tensor")
        table = draw(st.sampled_from(["tensor", named]))
        return Lookup(bits=bits, table=table, group=group, scales=scales, layout="panel")
    shift: dict[str, Any] = {}
    kind = draw(st.sampled_from(["none", "zeros", "offsets", "integer"]))
    if kind == "integer":
        shift["zeros"] = Affine(bits=bits)
    elif kind != "none":
        shift[kind] = Dense(dtype=draw(st.sampled_from(FLOATS)))
    return Affine(bits=bits, signed=draw(st.booleans()), group=group, scales=scales, layout="panel", **shift)


@st.composite
def panel_matrices(draw: st.DrawFn) -> Coded:
    """A matrix in panels, with random arrays."""
    coding, shape = draw(panel_codings()), draw(shapes())
    return Coded(coding, shape, arrays_for(coding, shape, draw(st.integers(0, 2**32 - 1))))


# -- every coding, grouping, nesting and layout -----------------------------------------------------------------------

DTYPES_OF_NUMBERS = (*FLOATS, "float64", "float8_e4m3fn", "int8", "uint8", "int32")


def any_shapes() -> st.SearchStrategy[tuple[int, int]]:
    """Matrices (N, K) of any kind, those without elements included."""
    side = st.one_of(st.integers(0, 40), st.sampled_from([0, 1, 2, 7, 16, 31, 64, 97]))
    return st.tuples(side, side)


@st.composite
def groupings(draw: st.DrawFn, shape: tuple[int, int]) -> Grouping:
    """A grouping that is legal for a matrix of this shape."""
    kind = draw(st.sampled_from(["block", "flat", "comb", "map"]))
    if kind == "flat":
        return Flat(size=draw(st.integers(1, 70)))
    if kind == "map":
        return Map(count=draw(st.integers(1, 5)))
    elements = shape[0] * shape[1]
    if kind == "comb" and elements:
        return Comb(size=draw(st.sampled_from([size for size in range(1, 65) if elements % size == 0])))
    side = st.one_of(st.none(), st.integers(1, 40))
    return Block(rows=draw(side), columns=draw(side))


@st.composite
def numbers(draw: st.DrawFn, shape: tuple[int, int], depth: int = 2) -> Coding:
    """A coding of numbers per group: dense, or nested again."""
    kind = draw(st.sampled_from(["dense", "dense", "affine", "lookup"])) if depth else "dense"
    if kind == "dense":
        return Dense(dtype=draw(st.sampled_from(DTYPES_OF_NUMBERS)))
    return draw(plain_codings(shape, depth - 1, kind, nested=True))


@st.composite
def plain_codings(
    draw: st.DrawFn, shape: tuple[int, int], depth: int = 2, kind: str | None = None, nested: bool = False
) -> Coding:
    """Affine and lookup codings in the plain layout; nested ones use no table with a NaN in it."""
    kind = kind or draw(st.sampled_from(["affine", "lookup"]))
    group = draw(groupings(shape))
    inner = array_shape(group, shape)
    optional = st.one_of(st.none(), numbers(inner, depth))
    bits = draw(st.integers(1, 8))
    if kind == "affine":
        zeros, offsets = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
        return Affine(
            bits=bits,
            signed=draw(st.booleans()),
            group=group,
            scales=draw(optional),
            zeros=draw(numbers(inner, depth)) if zeros else None,
            offsets=draw(numbers(inner, depth)) if offsets else None,
        )
    named = [name for name, row in tables.TABLE.items() if row.bits == bits]
    if nested:
        named = [name for name in named if np.isfinite(tables.values(name)).all()]
    table = draw(st.sampled_from([*tables.STORED, *named]))
    offset = draw(st.sampled_from([None, Dense(dtype="float32")]))
    return Lookup(bits=bits, table=table, group=group, scales=draw(optional), offset=offset)


@st.composite
def additive_codings(draw: st.DrawFn, layout: str | None = None) -> tuple[Coding, tuple[int, int]]:
    """An additive coding and a shape that it fits, in one layout or any."""
    high, wide = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    shape = (draw(st.one_of(st.integers(0, 20), st.just(150))), wide * draw(st.integers(0, 9)))
    scales = draw(st.one_of(st.none(), numbers(shape, 0)))
    coding = Additive(
        books=draw(st.integers(1, 4)),
        bits=draw(st.one_of(st.integers(1, 11), st.integers(12, 13))),
        in_group=wide,
        out_group=high,
        codebooks=Dense(dtype=draw(st.sampled_from(FLOATS))),
        group=draw(st.sampled_from([Block(rows=high), Block(), Block(rows=1, columns=wide)])),
        scales=scales,
        layout=layout or draw(st.sampled_from(["plain", "panel"])),
    )
    return coding, shape


@st.composite
def plain_matrices(draw: st.DrawFn, finite: bool = False) -> Coded:
    """A matrix of plain codes with weights, of rows that are shorter and longer than what kernels decode at a time.

    `finite`: without infinities and NaN.
    """
    long = st.tuples(st.integers(1, 9), st.sampled_from([1000, 1024, 1025, 2100]))
    shape = draw(st.one_of(any_shapes().filter(all), long))
    coding: Coding = draw(plain_codings(shape, nested=finite))
    if draw(st.integers(0, 3)) == 0:
        coding, shape = draw(additive_codings("plain").filter(lambda found: all(found[1])))
    return Coded(coding, shape, any_arrays(coding, shape, draw(st.integers(0, 2**32 - 1))))


@st.composite
def trellis_codings(draw: st.DrawFn) -> Trellis:
    """A trellis of any width, function and order."""
    function, order = (
        draw(st.sampled_from([*trellis.COMPUTED, *trellis.STORED])),
        draw(st.sampled_from([*trellis.ORDERS])),
    )
    bits = draw(st.integers(1, 8))
    if function in trellis.COMPUTED:
        return Trellis(bits=bits, function=function, order=order)
    return Trellis(
        bits=bits,
        function=function,
        order=order,
        vector=draw(st.integers(1, 2)),
        table_bits=draw(st.integers(1, 9)),
        table=Dense(dtype=draw(st.sampled_from(FLOATS))),
    )


def lattice_codings() -> st.SearchStrategy[Lattice]:
    """Sums of points of any lattices, for matrices whose columns are whole vectors."""
    lattices = st.lists(st.sampled_from([*lattice.TABLE]), min_size=1, max_size=3)
    return lattices.map(lambda names: Lattice(lattices=tuple(names)))


@st.composite
def splits(draw: st.DrawFn, shape: tuple[int, int]) -> Split:
    """Up to four parts of any coding for a matrix of this shape, which has columns."""
    edges = sorted(draw(st.sets(st.integers(1, shape[1]), max_size=3)) | {0, shape[1]})
    columns = tuple(right - left for left, right in pairwise(edges))
    anything = st.sampled_from([Additive(books=2, bits=3, in_group=1), *(Dense(dtype=name) for name in FLOATS)])
    parts = [draw(st.one_of(plain_codings((shape[0], wide), 1), trellis_codings(), anything)) for wide in columns]
    return Split(columns=columns, parts=tuple(parts))


@st.composite
def coded(draw: st.DrawFn) -> Coded:
    """Any coding with a shape and arrays."""
    kind = draw(st.sampled_from(["plain", "plain", "panel", "dense", "additive", "lattice", "trellis", "split"]))
    shape = draw(any_shapes())
    if kind == "plain":
        coding = draw(plain_codings(shape))
    elif kind == "panel":
        coding = draw(panel_codings())
    elif kind == "dense":
        coding = Dense(dtype=draw(st.sampled_from([name for name in DTYPES if name != "complex64"])))
    elif kind == "trellis":
        coding = draw(trellis_codings())
    elif kind == "lattice":
        shape, coding = (shape[0], shape[1] // 8 * 8), draw(lattice_codings())
    elif kind == "split":
        shape = (shape[0], max(shape[1], 1))
        coding = draw(splits(shape))
    else:
        coding, shape = draw(additive_codings())
    return Coded(coding, shape, any_arrays(coding, shape, draw(st.integers(0, 2**32 - 1))))


def any_arrays(coding: Coding, shape: tuple[int, int], seed: int) -> dict[str, NDArray[Any]]:
    """Arrays for every role of any coding: `arrays_for`, with maps that stay within their groups."""
    arrays = arrays_for(coding, shape, seed)
    for name in arrays:
        if name.rsplit(".", 1)[-1] == "groups":
            node: Any = coding
            for step in name.split(".")[:-1]:
                node = node[int(step)] if isinstance(node, tuple) else getattr(node, step)
            arrays[name] = arrays[name] % np.uint32(node.group.count)
        elif arrays[name].dtype == np.bool_:
            arrays[name] = arrays[name] != 0
    return arrays


# -- whole linears -----------------------------------------------------------------------------------------------------


class Linear(NamedTuple):
    """A scheme, the matrix W's shape, the recorded parameters and arrays for every role."""

    scheme: schemes.Scheme
    shape: tuple[int, int]
    parameters: tuple[int, ...]
    arrays: dict[str, NDArray[Any]]


@st.composite
def linears(draw: st.DrawFn) -> Linear:
    """Any coding with any transforms and corrections that fit its shape."""
    shape = (draw(st.sampled_from([1, 4, 12, 33])), draw(st.sampled_from([4, 16, 24, 68])))
    inputs = draw(
        st.lists(st.sampled_from(["permute", "scale", "hadamard", "rotate", "reassemble"]), max_size=3, unique=True)
    )
    outputs = draw(
        st.lists(st.sampled_from(["permute", "scale", "hadamard", *["rotate"] * (shape[0] % 2 == 0)]), max_size=2)
    )
    added = draw(st.lists(st.sampled_from(["lowrank", "outliers", "outlier_columns"]), max_size=2))
    dtype = draw(st.sampled_from(FLOATS))
    channels = draw(st.sampled_from([4, 20, 40]))
    parameters: list[int] = []
    for name in inputs:
        if name == "reassemble":
            parameters += [channels, draw(st.integers(0, 12))]
    most = {"lowrank": min(shape), "outliers": 4, "outlier_columns": shape[1]}
    parameters += [draw(st.integers(0, most[name])) for name in added]
    coded = (shape[0], channels if "reassemble" in inputs else shape[1])
    coding = draw(st.one_of(panel_codings(), plain_codings(coded, 1), trellis_codings(), splits(coded)))
    one = {"block": 1}
    blocks = st.sampled_from([{"block": 4}, {"block": 4, "base": 2}, {"block": 4, "base": 4}, {"block": 2, "base": 2}])
    document = {
        "coding": schemes.dump(schemes.Scheme(coding=coding))["coding"],
        "transforms": [_node("transform", name, dtype, draw(blocks)) for name in inputs],
        "output_transforms": [
            _node("transform", name, dtype, one if shape[0] % 4 else draw(blocks)) for name in outputs
        ],
        "corrections": [_node("correction", name, dtype, one) for name in added],
    }
    scheme = schemes.parse(document)
    seed = draw(st.integers(0, 2**32 - 1))
    return Linear(scheme, shape, tuple(parameters), linear_arrays(scheme, shape, tuple(parameters), seed))


def _node(kind: str, name: str, dtype: str, hadamard: dict[str, int]) -> dict[str, Any]:
    fields: dict[str, Any] = {"hadamard": hadamard, "permute": {}, "reassemble": {}}
    fields["rotate"] = {"rounds": 3, "dtype": dtype}
    return {kind: name, **fields.get(name, {"dtype": dtype})}


def linear_arrays(
    scheme: schemes.Scheme, shape: tuple[int, int], parameters: tuple[int, ...], seed: int
) -> dict[str, NDArray[Any]]:
    """Arrays for every role of a scheme, indices valid."""
    rng = np.random.default_rng(seed)
    coded = linear.coded_shape(scheme, shape, parameters)
    roles = linear.roles(scheme, shape, parameters)
    arrays: dict[str, NDArray[Any]] = {}
    for name, role in roles.items():
        leaf = name.rsplit(".", 1)[-1]
        if not name.startswith(("transforms.", "output_transforms.", "corrections.")):
            continue
        if leaf == "indices":
            arrays[name] = rng.permutation(role.shape[0]).astype(np.uint32)
        elif leaf == "pairs":
            rounds = [rng.permutation(role.shape[1] * 2) for _ in range(role.shape[0])]
            arrays[name] = np.array(rounds, np.uint32).reshape(role.shape)
        elif leaf == "base":
            flips = rng.choice([-1, 1], (2, role.shape[0])).astype(np.int8)
            arrays[name] = transforms.hadamard(np.diag(flips[0]), role.shape[0]) * flips[1]
        elif leaf == "signs":
            arrays[name] = rng.choice([-1, 1], role.shape).astype(np.int8)
        elif leaf == "row_pointers":
            count = roles[name.replace("row_pointers", "columns")].shape[0]
            rows, side = role.shape[0] - 1, shape[1]
            places = np.sort(rng.choice(rows * side, min(count, rows * side), replace=False))
            arrays[name] = np.searchsorted(places, np.arange(rows + 1) * side).astype(np.uint32)
            arrays[name.replace("row_pointers", "columns")] = (places % side).astype(np.uint32)
        elif leaf == "columns":
            if name not in arrays:
                arrays[name] = np.sort(rng.choice(shape[1], role.shape[0], replace=False)).astype(np.uint32)
        else:
            arrays[name] = rng.standard_normal(role.shape).astype(numpy_dtype(role.dtype))
    return {**arrays, **any_arrays(scheme.coding, coded, seed)}
