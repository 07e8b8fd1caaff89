"""Hypothesis strategies, all in one place: codings, shapes and arrays that fit them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from qformat import codings
from qformat.codings.grammar import Affine, Block, Coding, Dense, Lookup
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
