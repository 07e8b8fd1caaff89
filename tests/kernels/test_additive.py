"""The kernels of additive codes against the numpy decoder, on every instruction set that this machine has."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat import codings
from qformat.codings.grammar import Additive, Block, Dense
from qformat.codings.panel import ROWS
from qformat.codings.parts import Window
from qformat.dtypes import numpy_dtype
from qformat.kernels import _native
from qformat.kernels.operand import decode_into, decode_rows
from tests.kernels.test_operand import NATIVE, inputs, prepared, reader, same_on_any_threads
from tests.strategies import FLOATS, Coded, arrays_for

# `exact`: |y − y64| ≤ C·√terms·2⁻²⁴·Σ|scale·entry·x|, where every entry of the sum of books counts by itself.
C = 4.0


@st.composite
def matrices(draw: st.DrawFn, bits: tuple[int, ...] = (4, 8)) -> Coded:
    """Additive codes in panels, of the kind that the kernels read."""
    code_bits = draw(st.sampled_from(bits))
    large = code_bits == 16  # books of 65536 entries: few and narrow ones, or an example takes a gigabyte
    width = draw(st.integers(1, 9) if large else st.one_of(st.integers(1, 17), st.just(400)))
    books = draw(st.sampled_from([1, 2] if large else [1, 2, 3, 4, 6, 8]))
    groups = draw(st.integers(1, 3 if width == 400 else 40))
    shape = (draw(st.sampled_from([1, 5, 63, 64, 65, 130])), width * groups)
    coding = Additive(
        books=books,
        bits=code_bits,
        in_group=width,
        codebooks=Dense(dtype=draw(st.sampled_from(FLOATS))),
        scales=draw(st.sampled_from([None, Dense(dtype="float16"), Dense(dtype="float32")])),
        layout="panel",
    )
    return Coded(coding, shape, arrays_for(coding, shape, draw(st.integers(0, 2**32 - 1))))


def books_of(coded: Coded) -> np.ndarray:
    """(books, entries, width) float64."""
    return coded.arrays["codebooks"].astype(np.float64)[:, :, 0, :]


def scales_of(coded: Coded) -> np.ndarray:
    """(N,) float64."""
    if coded.coding.scales is None:
        return np.ones(coded.shape[0])
    return codings.decode_child(coded.coding, coded.shape, coded.arrays, "scales")[:, 0].astype(np.float64)


def rounding(coded: Coded, x: np.ndarray) -> np.ndarray:
    """The bound of `exact`: (batch, N)."""
    codes, books = coded.arrays["codes"], np.abs(books_of(coded))
    magnitude = sum(books[book][codes[..., book]] for book in range(len(books)))
    magnitude = magnitude.reshape(coded.shape) * np.abs(scales_of(coded))[:, None]
    return C * np.sqrt(coded.shape[1] * len(books)) * 2.0**-24 * (np.abs(x) @ magnitude.T) + 1e-30


def tables_of(coded: Coded, x: np.ndarray) -> np.ndarray:
    """Tables of partial products (batch, groups, books, entries)."""
    return np.einsum("bgw,mew->bgme", x.reshape(len(x), -1, coded.coding.in_group), books_of(coded))


def block_of(coding: Additive) -> int:
    """Input groups whose tables share a scale."""
    return max(1, min((64 if coding.bits == 8 else 128) // coding.books, 1024 // -(-coding.in_group // 8)))


def integers(coded: Coded, x: np.ndarray) -> np.ndarray:
    """How far tables made of integers may be off: (batch, groups, books).

    x is rounded to integers of up to 16383 units by block, the books to 8191 units. Products are exact and summed by
    eight inputs; where there are several of these sums, each loses the low bits that their number takes. Of the result
    the upper 16 bits are kept, rounded, and steps are no smaller than what they resolve.
    """
    width, block = coded.coding.in_group, block_of(coded.coding)
    x = np.abs(x.reshape(len(x), -1, width))
    units_x = np.concatenate(
        [
            np.broadcast_to(x[:, i : i + block].max(axis=(1, 2))[:, None], x[:, i : i + block, 0].shape)
            for i in range(0, x.shape[1], block)
        ],
        axis=1,
    )[..., None] / (16383 * 0.999)
    books = np.abs(books_of(coded))
    unit = books.max() / (8191 * 0.999)
    of_inputs = 0.5 * units_x * books.sum(axis=2).max(axis=1)
    of_books = 0.5 * unit * (x.sum(axis=2)[..., None] + width / 2 * units_x)
    segments = -(-width // 8)
    shift = int(np.ceil(np.log2(segments)))
    lost = (segments if segments > 1 else 0) * 2**shift + 2 ** (15 + shift)
    return of_inputs + of_books + lost * units_x * unit


def step(coded: Coded, x: np.ndarray) -> np.ndarray:
    """The bound of `int8`: (batch, N).

    Tables of a block share a scale of 1/126 of half the widest range or less, and each look-up is off by half of it and
    by what their integers are.
    """
    tables, off = tables_of(coded, x), integers(coded, x)
    half = (tables.max(axis=3) - tables.min(axis=3)) / 2 + off
    block = block_of(coded.coding)
    bound = off.sum(axis=(1, 2))
    for first in range(0, half.shape[1], block):
        part = half[:, first : first + block]
        bound += part[0].size * part.max(axis=(1, 2)) / 252
    return bound[:, None] * np.abs(scales_of(coded))


@pytest.mark.parametrize("kernel", NATIVE)
@given(coded=matrices((4, 8, 16)), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_exact_is_within_its_bound(kernel: str, coded: Coded, batch: int, seed: int) -> None:
    weight = codings.decode(coded.coding, coded.shape, coded.arrays).astype(np.float64)
    x = inputs(coded, batch, seed)
    operand = prepared(coded)
    assert operand.native is not None
    y = operand.matvec(x, "exact", kernel)
    x = x.astype(np.float64)
    assert (np.abs(y - x @ weight.T) <= rounding(coded, x)).all()


@pytest.mark.parametrize("kernel", NATIVE)
@given(coded=matrices(), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_int8_is_within_half_a_step_of_its_tables(kernel: str, coded: Coded, batch: int, seed: int) -> None:
    weight = codings.decode(coded.coding, coded.shape, coded.arrays).astype(np.float64)
    x = inputs(coded, batch, seed)
    y = prepared(coded).matvec(x, "int8", kernel)
    x = x.astype(np.float64)
    # sums of middles and of bytes round as the largest products do
    largest = np.abs(tables_of(coded, x)).max(axis=3).sum(axis=(1, 2))[:, None] * np.abs(scales_of(coded))
    bound = step(coded, x) * 1.001 + 2.0**-20 * largest + rounding(coded, x)
    assert (np.abs(y - x @ weight.T) <= bound).all()


@pytest.mark.parametrize("kernel", NATIVE)
@given(
    coded=matrices((4, 8, 16)), dtype=st.sampled_from(FLOATS), cut=st.tuples(st.integers(0, 130), st.integers(0, 130))
)
def test_decode_is_the_numpy_decoder(kernel: str, coded: Coded, dtype: str, cut: tuple[int, int]) -> None:
    top, bottom = sorted(min(c, coded.shape[0]) for c in cut)
    extent = codings.pack(coded.coding, coded.shape, coded.arrays)
    arrays, read = codings.parts(coded.coding, coded.shape, extent), reader(coded, extent)
    found = np.zeros((bottom - top, coded.shape[1]), numpy_dtype(dtype))
    assert decode_rows(coded.coding, coded.shape, arrays, read, range(top, bottom), found, kernel) == (top < bottom)
    window = Window(top, bottom, 0, coded.shape[1])
    expected = codings.decode(coded.coding, coded.shape, coded.arrays, window).astype(numpy_dtype(dtype))
    np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))
    native = prepared(coded).native
    assert isinstance(native, _native.Additive)
    panels = slice(top // ROWS * ROWS, min(-(-bottom // ROWS) * ROWS, coded.shape[0]))
    into = np.empty((panels.stop - panels.start, coded.shape[1]), numpy_dtype(dtype))
    decode_into(kernel, native, top // ROWS, -(-bottom // ROWS), into)
    again = into[top - panels.start : bottom - panels.start]
    np.testing.assert_array_equal(again.astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize(("entry", "scale"), [(2.0**-130, 1.0), (2.0**-70, 2.0**-62)])
def test_subnormal_weights_are_decoded(kernel: str, entry: float, scale: float) -> None:
    """An instruction that rounds to bfloat16 makes zeros of them."""
    coding = Additive(
        books=1, bits=8, in_group=8, codebooks=Dense(dtype="float32"), scales=Dense(dtype="float32"), layout="panel"
    )
    shape = (70, 64)
    arrays = arrays_for(coding, shape, 0)
    arrays["codebooks"] = np.random.default_rng(0).uniform(1, 2, arrays["codebooks"].shape).astype(np.float32) * entry
    arrays["scales"] = np.full_like(arrays["scales"], scale)
    out = np.empty(shape, ml_dtypes.bfloat16)
    native = prepared(Coded(coding, shape, arrays)).native
    assert isinstance(native, _native.Additive)
    decode_into(kernel, native, 0, -(-shape[0] // ROWS), out)
    expected = codings.decode(coding, shape, arrays)
    assert (np.abs(expected) < 2.0**-126).all()
    assert expected.all()
    np.testing.assert_array_equal(out.view(np.uint16), expected.astype(ml_dtypes.bfloat16).view(np.uint16))


@pytest.mark.parametrize(
    "changes",
    [{"out_group": 2}, {"bits": 5}, {"bits": 12}, {"group": Block(columns=16), "scales": Dense(dtype="float16")}],
)
def test_what_the_native_kernels_do_not_read_is_decoded(changes: dict[str, Any]) -> None:
    coding, shape = Additive(**{"books": 2, "bits": 4, "in_group": 8, "layout": "panel", **changes}), (70, 64)
    coded = Coded(coding, shape, arrays_for(coding, shape, 2))
    operand, x = prepared(coded), inputs(coded, 2, 2)
    assert operand.native is None
    expected = x @ codings.decode(coding, shape, coded.arrays).T
    np.testing.assert_allclose(operand.matvec(x, "exact", NATIVE[0]), expected, rtol=1e-5, atol=1e-6)
    out = np.empty(shape, np.float32)
    extent = codings.pack(coding, shape, coded.arrays)
    assert not decode_rows(coding, shape, coded.arrays, reader(coded, extent), range(shape[0]), out, NATIVE[0])


@given(coded=matrices((4, 8, 16)), seed=st.integers(0, 99))
def test_results_do_not_depend_on_the_number_of_threads(coded: Coded, seed: int) -> None:
    assert same_on_any_threads(prepared(coded), inputs(coded, 2, seed))


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize("mode", ["exact", "int8"])
@pytest.mark.parametrize("bits", [4, 8])
def test_values_that_are_not_finite_come_out_as_nan(kernel: str, mode: str, bits: int) -> None:
    coding, shape = Additive(books=2, bits=bits, in_group=8, layout="panel"), (70, 512)
    coded = Coded(coding, shape, arrays_for(coding, shape, 1))
    x = inputs(coded, 1, 1)
    x[0, 100] = np.nan
    assert np.isnan(prepared(coded).matvec(x, mode, kernel)).all()
