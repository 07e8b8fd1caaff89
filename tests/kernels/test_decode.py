"""Decoding by the kernels is the numpy decoder, cast: bit for bit, whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qformat import codings, kernels
from qformat.codings import panel
from qformat.codings.grammar import Affine, Block, Dense, Lookup
from qformat.codings.parts import Window
from qformat.dtypes import numpy_dtype
from qformat.kernels.operand import decode_into, decode_rows
from tests.kernels.test_operand import NATIVE, prepared, reader
from tests.strategies import FLOATS, Coded, arrays_for, panel_matrices

# Finite scales and zeros beyond what methods write: results that are subnormal, infinite or no number.
STRANGE = (0.0, -0.0, 1e-45, 3e-39, -1.2e-38, 1e-20, 1e19, 3e38, 0.5, -7.25)


def decoded(coded: Coded, rows: range, dtype: str, kernel: str) -> NDArray[np.generic] | None:
    """Rows by a kernel, on memory that held something else; None if it does not decode them."""
    extent = codings.pack(coded.coding, coded.shape, coded.arrays)
    arrays = codings.parts(coded.coding, coded.shape, extent)
    out = np.full((len(rows), coded.shape[1]), 17, numpy_dtype(dtype))
    read = reader(coded, extent)
    return out if decode_rows(coded.coding, coded.shape, arrays, read, rows, out, kernel) else None


def expected(coded: Coded, rows: range, dtype: str) -> NDArray[np.generic]:
    window = Window(rows.start, rows.stop, 0, coded.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        return codings.decode(coded.coding, coded.shape, coded.arrays, window).astype(numpy_dtype(dtype))


def assert_same(found: NDArray[np.generic] | None, wanted: NDArray[np.generic]) -> None:
    """The same bits, zeros of the same sign; where one has no number, neither has the other."""
    assert found is not None
    nan = np.isnan(wanted.astype(np.float32))
    assert (np.isnan(found.astype(np.float32)) == nan).all()
    bits = np.uint16 if wanted.itemsize == 2 else np.uint32
    np.testing.assert_array_equal(np.where(nan, 0, found.view(bits)), np.where(nan, 0, wanted.view(bits)))


@pytest.mark.parametrize("kernel", NATIVE)
@given(coded=panel_matrices(), dtype=st.sampled_from(FLOATS), cut=st.tuples(st.integers(0, 70), st.integers(0, 70)))
def test_rows_are_the_numpy_decoder(kernel: str, coded: Coded, dtype: str, cut: tuple[int, int]) -> None:
    top, bottom = sorted(min(c, coded.shape[0]) for c in cut)
    found = decoded(coded, range(top, bottom), dtype, kernel)
    if top == bottom:
        assert found is None
    else:
        assert_same(found, expected(coded, range(top, bottom), dtype))


@pytest.mark.parametrize("kernel", NATIVE)
@given(
    bits=st.integers(1, 8),
    group=st.sampled_from([16, 48, 64, 128]),
    shift=st.sampled_from(["zeros", "offsets", "none", "table"]),
    dtype=st.sampled_from(FLOATS),
    seed=st.integers(0, 2**32 - 1),
)
def test_numbers_at_the_ends_of_their_range(
    kernel: str, bits: int, group: int, shift: str, dtype: str, seed: int
) -> None:
    wide, block = Dense(dtype="float32"), Block(rows=1, columns=group)
    shape, rng = (17, 160), np.random.default_rng(seed)
    coding: Affine | Lookup
    if shift == "table":
        coding = Lookup(bits=bits, table="tensor", group=block, scales=wide, layout="panel")
    else:
        more = {} if shift == "none" else {shift: wide}
        coding = Affine(bits=bits, signed=bool(seed % 2), group=block, scales=wide, layout="panel", **more)
    arrays = arrays_for(coding, shape, seed)
    for name in arrays.keys() & {"scales", "zeros", "offsets", "table"}:
        arrays[name] = rng.choice(STRANGE, arrays[name].shape).astype(np.float32)
        if rng.integers(2):  # a group with nothing strange is decoded by another path, beside the others
            arrays[name].reshape(-1)[::2] = 0.375
    coded = Coded(coding, shape, arrays)
    assert_same(decoded(coded, range(17), dtype, kernel), expected(coded, range(17), dtype))


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("bits", "group", "inputs"), [(4, 128, 4096), (8, 64, 4064), (3, 32, 4128), (5, 48, 4080)])
def test_results_that_are_larger_than_the_cache(kernel: str, dtype: str, bits: int, group: int, inputs: int) -> None:
    # they are written past the cache where their rows are whole lines
    f16 = Dense(dtype="float16")
    coding = Affine(bits=bits, group=Block(rows=1, columns=group), scales=f16, zeros=f16, layout="panel")
    shape = (2200, inputs)
    coded = Coded(coding, shape, arrays_for(coding, shape, 1))
    wanted = expected(coded, range(shape[0]), dtype)
    for shift in (0, 1):  # memory that is aligned to a line, and memory that is not
        space = np.empty(wanted.nbytes + 128, np.uint8)
        start = -space.ctypes.data % 64 + shift * wanted.itemsize
        out = space[start : start + wanted.nbytes].view(wanted.dtype).reshape(shape)
        operand = prepared(coded)
        assert operand.native is not None
        decode_into(kernel, operand.native, 0, -(-shape[0] // panel.ROWS), out)
        assert_same(out, wanted)


@given(coded=panel_matrices(), dtype=st.sampled_from(FLOATS))
def test_results_do_not_depend_on_the_number_of_threads(coded: Coded, dtype: str) -> None:
    before = kernels.get_threads()
    rows = range(coded.shape[0])
    try:
        for count in (1, 2, 3):
            kernels.set_threads(count)
            assert_same(decoded(coded, rows, dtype, kernels.active()), expected(coded, rows, dtype))
    finally:
        kernels.set_threads(before)
