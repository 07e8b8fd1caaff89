"""Codings that are decoded in strips against the numpy decoder, on every instruction set that this machine has."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qformat import codings
from qformat.codings import lattice
from qformat.codings.grammar import Lattice
from qformat.codings.panel import ROWS
from qformat.codings.parts import Window
from qformat.dtypes import numpy_dtype
from qformat.kernels import _native
from qformat.kernels.operand import decode_into, decode_rows
from tests.kernels.test_decode import STRANGE, assert_same, expected
from tests.kernels.test_operand import NATIVE, inputs, prepared, reader, rounding, same_on_any_threads
from tests.strategies import FLOATS, Coded, arrays_for, lattice_codings


@st.composite
def lattices(draw: st.DrawFn) -> Coded:
    """Points of lattices, in rows of one piece and of several."""
    coding = draw(lattice_codings())
    shape = draw(st.integers(1, 21)), 8 * draw(st.one_of(st.integers(1, 40), st.sampled_from([128, 129, 300])))
    return Coded(coding, shape, arrays_for(coding, shape, draw(st.integers(0, 2**32 - 1))))


def matrices() -> st.SearchStrategy[Coded]:
    """Every kind of matrix that is decoded in strips."""
    return lattices()


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


@pytest.mark.parametrize("short", [0, 1])
def test_codes_that_are_longer_than_their_extent_are_refused(short: int) -> None:
    coding, shape = Lattice(lattices=("e8p", "e81b")), (5, 24)
    coded = Coded(coding, shape, arrays_for(coding, shape, 0))
    extent = codings.pack(coding, shape, coded.arrays)
    whole, arrays = reader(coded, extent), codings.parts(coding, shape, extent)

    def read(name: str, start: int, stop: int) -> NDArray[np.uint8]:
        return whole(name, start, stop - (name == f"codes.{short}"))

    with pytest.raises(ValueError, match="longer than their extent"):
        decode_rows(coding, shape, arrays, read, range(5), np.empty(shape, np.float32), NATIVE[0])
