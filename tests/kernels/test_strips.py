"""Codings that are decoded in strips against the numpy decoder, on every instruction set that this machine has."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qformat import codings
from qformat.codings import lattice, trellis
from qformat.codings.grammar import Coding, Dense, Lattice, Split, Trellis
from qformat.codings.panel import ROWS
from qformat.codings.parts import Window
from qformat.dtypes import numpy_dtype
from qformat.kernels import _native
from qformat.kernels.operand import decode_into, decode_rows
from tests.kernels.test_decode import STRANGE, assert_same, expected
from tests.kernels.test_operand import NATIVE, inputs, prepared, reader, rounding, same_on_any_threads
from tests.strategies import (
    FLOATS,
    Coded,
    any_arrays,
    arrays_for,
    lattice_codings,
    plain_codings,
    plain_matrices,
    trellis_codings,
)


@st.composite
def lattices(draw: st.DrawFn) -> Coded:
    """Points of lattices, in rows of one piece and of several."""
    coding = draw(lattice_codings())
    shape = draw(st.integers(1, 21)), 8 * draw(st.one_of(st.integers(1, 40), st.sampled_from([128, 129, 300])))
    return Coded(coding, shape, arrays_for(coding, shape, draw(st.integers(0, 2**32 - 1))))


@st.composite
def trellises(draw: st.DrawFn) -> Coded:
    """Tiles of any trellis, in rows of one piece and of several, whole tiles or not."""
    coding = draw(trellis_codings())
    shape = draw(st.integers(1, 70)), draw(st.one_of(st.integers(1, 100), st.sampled_from([128, 512, 519])))
    return Coded(coding, shape, arrays_for(coding, shape, draw(st.integers(0, 2**32 - 1))))


@st.composite
def splits(draw: st.DrawFn) -> Coded:
    """Codings beside each other, in columns that their tiles fill or do not."""
    parts, columns, rows = [], [], draw(st.integers(1, 40))
    for _ in range(draw(st.integers(1, 4))):
        kind, tiles = draw(st.sampled_from(["lattice", "trellis", "plain"])), draw(st.integers(1, 20))
        columns.append(8 * tiles if kind == "lattice" else draw(st.sampled_from([16 * tiles, tiles])))
        plain = plain_codings((rows, columns[-1]), 1, nested=True)
        parts.append(draw({"lattice": lattice_codings(), "trellis": trellis_codings(), "plain": plain}[kind]))
    coding, shape = Split(columns=tuple(columns), parts=tuple(parts)), (rows, sum(columns))
    return Coded(coding, shape, any_arrays(coding, shape, draw(st.integers(0, 2**32 - 1))))


def matrices() -> st.SearchStrategy[Coded]:
    """Every kind of matrix that is decoded in strips."""
    return st.one_of(lattices(), trellises(), plain_matrices(finite=True), splits())


def decoded(coded: Coded, rows: range, dtype: str, kernel: str) -> NDArray[np.generic]:
    """Rows by a kernel, on memory that held something else."""
    extent = codings.pack(coded.coding, coded.shape, coded.arrays)
    arrays = codings.parts(coded.coding, coded.shape, extent)
    out = np.full((len(rows), coded.shape[1]), 17, numpy_dtype(dtype))
    assert decode_rows(coded.coding, coded.shape, arrays, reader(coded, extent), rows, out, kernel) == bool(rows)
    return out


def native_of(coded: Coded, rows: range | None = None) -> _native.Strips:
    native = prepared(coded, rows).native
    assert isinstance(native, _native.Strips)
    return native


@pytest.mark.parametrize("kernel", NATIVE)
@given(coded=matrices(), dtype=st.sampled_from(FLOATS), cut=st.tuples(st.integers(0, 70), st.integers(0, 70)))
def test_rows_are_the_numpy_decoder(kernel: str, coded: Coded, dtype: str, cut: tuple[int, int]) -> None:
    """Any rows on the way of `Tensor.decode`, whole sixteens on that of tiles."""
    top, bottom = sorted(min(c, coded.shape[0]) for c in cut)
    wanted = expected(coded, range(top, bottom), dtype)
    assert_same(decoded(coded, range(top, bottom), dtype, kernel), wanted)
    panels = range(top // ROWS, -(-bottom // ROWS))
    held = range(panels.start * ROWS, min(panels.stop * ROWS, coded.shape[0]))
    into = np.empty((len(held), coded.shape[1]), numpy_dtype(dtype))
    decode_into(kernel, native_of(coded), panels.start, panels.stop, into)
    assert_same(into[top - held.start : bottom - held.start], wanted)


@pytest.mark.parametrize("kernel", NATIVE)
@given(
    coded=matrices(),
    dtype=st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]),
    batch=st.integers(1, 9),
    mode=st.sampled_from(["exact", "int8"]),
    seed=st.integers(0, 99),
)
def test_products_are_within_their_bound(
    kernel: str, coded: Coded, dtype: type, batch: int, mode: str, seed: int
) -> None:
    weight = codings.decode(coded.coding, coded.shape, coded.arrays).astype(np.float64)
    x = inputs(coded, batch, seed).astype(dtype)
    operand = prepared(coded)
    assert isinstance(operand.native, _native.Strips)
    y = operand.matvec(x, mode, kernel)
    x = x.astype(np.float64)
    assert (np.abs(y - x @ weight.T) <= rounding(np.abs(weight), x)).all()


@pytest.mark.parametrize("kernel", NATIVE)
@given(coded=matrices(), cut=st.tuples(st.integers(0, 70), st.integers(0, 70)), seed=st.integers(0, 99))
def test_products_of_some_rows_are_those_of_all(kernel: str, coded: Coded, cut: tuple[int, int], seed: int) -> None:
    """Bit for bit, for one row of x or several; where rows start within a tile, as the definition decodes them."""
    top, bottom = sorted(min(c, coded.shape[0]) for c in cut)
    x, some = inputs(coded, 3, seed), prepared(coded, range(top, bottom))
    y = prepared(coded).matvec(x, "exact", kernel)
    if some.native is None:
        weight = codings.decode(coded.coding, coded.shape, coded.arrays, Window(top, bottom, 0, coded.shape[1]))
        bound = rounding(np.abs(weight).astype(np.float64), x.astype(np.float64))
        assert (np.abs(some.matvec(x, "exact", kernel) - y[:, top:bottom]) <= 2 * bound).all()
    else:
        np.testing.assert_array_equal(some.matvec(x, "exact", kernel), y[:, top:bottom])
        np.testing.assert_array_equal(some.matvec(x[1:2], "exact", kernel), y[1:2, top:bottom])
        many = some.matvec(np.tile(x, (45, 1)), "exact", kernel)  # more than share what is decoded
        np.testing.assert_array_equal(many, np.tile(y[:, top:bottom], (45, 1)))


@given(coded=matrices(), seed=st.integers(0, 99))
def test_results_do_not_depend_on_the_number_of_threads(coded: Coded, seed: int) -> None:
    assert same_on_any_threads(prepared(coded), inputs(coded, 2, seed))


# -- lattices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize("name", [*lattice.TABLE])
@pytest.mark.parametrize("factor", [1.0, -0.37, *STRANGE])
def test_every_point_of_a_lattice(kernel: str, name: str, factor: float) -> None:
    count = 2 ** lattice.TABLE[name].bits
    coding, shape = Lattice(lattices=(name,)), (count // 64, 8 * 64)
    codes = np.arange(count).reshape(-1, 64).astype(np.uint16 if count > 256 else np.uint8)
    coded = Coded(coding, shape, {"factors": np.array([factor], np.float32), "codes.0": codes})
    for dtype in FLOATS:
        rows = range(shape[0])
        assert_same(decoded(coded, rows, dtype, kernel), expected(coded, rows, dtype))


@pytest.mark.parametrize("kernel", NATIVE)
@given(
    names=st.lists(st.sampled_from([*lattice.TABLE]), min_size=1, max_size=4),
    factors=st.lists(st.sampled_from(STRANGE), min_size=4, max_size=4),
    dtype=st.sampled_from(FLOATS),
)
def test_factors_at_the_ends_of_their_range(kernel: str, names: list[str], factors: list[float], dtype: str) -> None:
    coding, shape = Lattice(lattices=tuple(names)), (5, 104)
    arrays = arrays_for(coding, shape, 0)
    arrays["factors"] = np.array(factors[: len(names)], np.float32)
    coded = Coded(coding, shape, arrays)
    assert_same(decoded(coded, range(5), dtype, kernel), expected(coded, range(5), dtype))


# -- trellises ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize("function", [*trellis.COMPUTED, *trellis.STORED])
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_state_of_a_trellis(kernel: str, function: str, dtype: str) -> None:
    """Codes of 8 bits: two that follow each other are a state, and every second one is chosen."""
    stored = {"table_bits": 12, "table": Dense(dtype="float32")} if function in trellis.STORED else {}
    coding, shape = Trellis(bits=8, function=function, **stored), (16, 16 * 512)
    chosen = np.arange(2**16).reshape(1, 512, 128)
    codes = np.stack([chosen >> 8, chosen & 255], axis=-1).reshape(1, 512, 256).astype(np.uint8)
    assert np.unique(trellis.states(codes, 8)).size == 2**16
    coded = Coded(coding, shape, {**arrays_for(coding, shape, 0), "codes": codes})
    assert_same(decoded(coded, range(16), dtype, kernel), expected(coded, range(16), dtype))


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize("order", [*trellis.ORDERS])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("vector", [1, 2])
def test_every_width_and_order_of_a_trellis(kernel: str, order: str, bits: int, vector: int) -> None:
    coding = Trellis(
        bits=bits, function="quantlut_sym", order=order, vector=vector, table_bits=9, table=Dense(dtype="float32")
    )
    coded = Coded(coding, (32, 80), arrays_for(coding, (32, 80), bits))
    assert_same(decoded(coded, range(32), "float32", kernel), expected(coded, range(32), "float32"))


@pytest.mark.parametrize("kernel", NATIVE)
@given(vector=st.integers(1, 2), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 2**32 - 1))
def test_tables_at_the_ends_of_their_range(kernel: str, vector: int, dtype: str, seed: int) -> None:
    coding = Trellis(bits=3, function="quantlut_sym", vector=vector, table_bits=6, table=Dense(dtype="float32"))
    arrays = arrays_for(coding, (20, 40), seed)
    arrays["table"] = np.random.default_rng(seed).choice(STRANGE, arrays["table"].shape).astype(np.float32)
    coded = Coded(coding, (20, 40), arrays)
    assert_same(decoded(coded, range(20), dtype, kernel), expected(coded, range(20), dtype))


# -- what does not fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coding", "short"),
    [
        (Lattice(lattices=("e8p", "e81b")), "codes.0"),
        (Lattice(lattices=("e8p", "e81b")), "codes.1"),
        (Trellis(bits=3, function="1mad"), "codes"),
        (Trellis(bits=8, function="lut", vector=2, table_bits=4), "codes"),
    ],
)
def test_codes_that_are_longer_than_their_extent_are_refused(coding: Coding, short: str) -> None:
    coded = Coded(coding, (5, 24), arrays_for(coding, (5, 24), 0))
    extent = codings.pack(coding, coded.shape, coded.arrays)
    whole, arrays = reader(coded, extent), codings.parts(coding, coded.shape, extent)

    def read(name: str, start: int, stop: int) -> NDArray[np.uint8]:
        return whole(name, start, stop - (name == short))

    with pytest.raises(ValueError, match="longer than their extent"):
        decode_rows(coding, coded.shape, arrays, read, range(5), np.empty(coded.shape, np.float32), NATIVE[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 9}, "bits or vector"),
        ({"vector": 3}, "bits or vector"),
        ({"vector": 2}, "table_bits or vector"),
        ({"table_bits": 15}, "table_bits or vector"),
        ({"function": 5, "table_bits": 17}, "table_bits or vector"),
        ({"function": 8}, "no such function"),
        ({"rows": 0}, "out of range"),
        ({"rows": 17}, "longer than their extent"),
        ({"inputs": 17}, "longer than their extent"),
        ({"inputs": 2**48}, "out of range"),
        ({"table": np.zeros(2**16 - 1, np.float32)}, "the table has another shape"),
        ({"places": np.zeros(256, np.uint8)}, "lie"),
        ({"places": np.arange(256, dtype=np.uint8).reshape(16, 16).T.reshape(-1).copy()}, "lie"),
        ({"places": np.arange(255, dtype=np.uint8)}, "another length"),
    ],
)
def test_trellises_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    table, places = np.zeros(2**16, np.float32), np.arange(256, dtype=np.uint8)
    right = {"codes": np.zeros(128, np.uint8), "rows": 16, "inputs": 16, "bits": 4, "vector": 1, "function": 0}
    _native.trellis(**{**right, "places": places, "table": table, "table_bits": 16, "normal": True})
    with pytest.raises(ValueError, match=message):
        _native.trellis(**{**right, "places": places, "table": table, "table_bits": 16, "normal": True, **changes})
