"""Affine and lookup codes in the plain layout, whatever the grouping: decoded to the bits of the numpy decoder."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qformat import codings
from qformat.codings.grammar import Additive, Affine, Block, Coding, Comb, Dense, Flat, Lookup, Map, Split
from qformat.dtypes import numpy_dtype
from qformat.errors import InvalidFileError
from qformat.kernels import _native
from qformat.kernels.operand import decode_rows
from tests.kernels.test_decode import STRANGE, assert_same, expected
from tests.kernels.test_operand import NATIVE, inputs, prepared, reader, rounding
from tests.strategies import FLOATS, Coded, any_arrays, arrays_for, plain_matrices

BYTES = ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "int8", "uint8")


def decoded(coded: Coded, rows: range, dtype: str, kernel: str) -> NDArray[np.generic] | None:
    """Rows by a kernel, on memory that held something else; None if it does not decode them."""
    extent = codings.pack(coded.coding, coded.shape, coded.arrays)
    read, arrays = reader(coded, extent), codings.parts(coded.coding, coded.shape, extent)
    out = np.full((len(rows), coded.shape[1]), 17, numpy_dtype(dtype))
    return out if decode_rows(coded.coding, coded.shape, arrays, read, rows, out, kernel) else None


@pytest.mark.parametrize("kernel", NATIVE)
@given(coded=plain_matrices(), dtype=st.sampled_from(FLOATS), cut=st.tuples(st.integers(0, 97), st.integers(0, 97)))
def test_rows_are_the_numpy_decoder(kernel: str, coded: Coded, dtype: str, cut: tuple[int, int]) -> None:
    top, bottom = sorted(c % (coded.shape[0] + 1) for c in cut)
    if top < bottom:
        rows = range(top, bottom)
        assert_same(decoded(coded, rows, dtype, kernel), expected(coded, rows, dtype))


@pytest.mark.parametrize("kernel", NATIVE)
@given(coded=plain_matrices(), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 2**32 - 1))
def test_numbers_at_the_ends_of_their_range(kernel: str, coded: Coded, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wide = dense("float32")
    changes = {name: wide for name in ("scales", "zeros", "offsets", "offset") if getattr(coded.coding, name, None)}
    coding = msgspec.structs.replace(coded.coding, **changes)
    arrays = any_arrays(coding, coded.shape, seed)
    for name in {*changes, "table"} & arrays.keys():
        arrays[name] = rng.choice(np.array(STRANGE, np.float32), arrays[name].shape)
    strange, rows = Coded(coding, coded.shape, arrays), range(coded.shape[0])
    assert_same(decoded(strange, rows, dtype, kernel), expected(strange, rows, dtype))


@pytest.mark.parametrize("kernel", NATIVE)
@given(
    stored=st.sampled_from(BYTES), dtype=st.sampled_from(FLOATS), rows=st.integers(1, 9), columns=st.integers(1, 1100)
)
def test_values_of_a_byte_are_codes(kernel: str, stored: str, dtype: str, rows: int, columns: int) -> None:
    values = np.arange(rows * columns).astype(np.uint8).reshape(rows, columns).view(numpy_dtype(stored))
    coded = Coded(dense(stored), (rows, columns), {"values": values})
    assert_same(decoded(coded, range(rows), dtype, kernel), expected(coded, range(rows), dtype))
    some = range(rows // 2, rows)
    assert_same(decoded(coded, some, dtype, kernel), expected(coded, some, dtype))


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize("stored", [*BYTES])
def test_values_of_a_byte_are_multiplied(kernel: str, stored: str) -> None:
    values = np.random.default_rng(0).integers(100, 120, (21, 1100), np.uint8).view(numpy_dtype(stored))  # all finite
    coded = Coded(dense(stored), values.shape, {"values": values})
    weight, x = values.astype(np.float64), inputs(coded, 2, 0)
    operand = prepared(coded)
    assert isinstance(operand.native, _native.Strips)
    y = operand.matvec(x, "exact", kernel)
    assert (np.abs(y - x.astype(np.float64) @ weight.T) <= rounding(np.abs(weight), x.astype(np.float64))).all()


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize(
    ("books", "bits", "wide", "high", "shape"),
    [(2, 12, 8, 1, (5, 2400)), (1, 3, 700, 2, (5, 2100)), (3, 16, 1, 1, (3, 1025)), (1, 2, 1024, 4, (9, 3072))],
)
@pytest.mark.parametrize("group", [Block(), Flat(size=33), Comb(size=3), Map(count=5)])
def test_additive_codes_in_rows_of_several_pieces(
    kernel: str, books: int, bits: int, wide: int, high: int, shape: tuple[int, int], group: Any
) -> None:
    coding = Additive(
        books=books, bits=bits, in_group=wide, out_group=high, group=group, scales=dense("float16"), layout="plain"
    )
    coded = Coded(coding, shape, any_arrays(coding, shape, 4))
    for rows in (range(shape[0]), range(1, 3)):
        assert_same(decoded(coded, rows, "bfloat16", kernel), expected(coded, rows, "bfloat16"))


def dense(dtype: str) -> Dense:
    return Dense(dtype=dtype)


GROUPS = [Block(rows=1, columns=5), Block(rows=3, columns=None), Flat(size=7), Comb(size=4), Map(count=3)]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("role", ["scales", "zeros"])
def test_numbers_that_are_not_finite_are_refused_where_they_are_used(group: Any, role: str) -> None:
    coding, shape = Affine(bits=4, group=group, scales=dense("float32"), zeros=dense("float16")), (8, 20)
    coded = Coded(coding, shape, any_arrays(coding, shape, 1))
    coded.arrays[role][-1, -1] = np.nan
    whole = range(shape[0])
    with pytest.raises(InvalidFileError, match="not finite") as caught:
        decoded(coded, whole, "float32", NATIVE[0])
    assert caught.value.field == role
    with pytest.raises(InvalidFileError, match="not finite"):
        prepared(coded)
    if not isinstance(group, Comb):  # whose numbers are all in every row here
        assert_same(decoded(coded, range(2), "float32", NATIVE[0]), expected(coded, range(2), "float32"))


def test_numbers_of_a_part_are_called_after_it() -> None:
    part, shape = Affine(bits=4, group=Flat(size=7), scales=dense("float32")), (8, 20)
    coding = Split(columns=(5, 15), parts=(Affine(bits=4), part))
    coded = Coded(coding, shape, arrays_for(coding, shape, 1))
    coded.arrays["parts.1.scales"][0, 3] = np.inf
    with pytest.raises(InvalidFileError, match="not finite") as caught:
        prepared(coded)
    assert caught.value.field == "parts.1.scales"


@pytest.mark.parametrize("rows", [1048, 1049])
def test_numbers_that_would_be_larger_than_the_codes_are_not_decoded_ahead(rows: int) -> None:
    coding, shape = Affine(bits=2, group=Flat(size=1), scales=dense("float32")), (rows, 1000)
    coded = Coded(coding, shape, arrays_for(coding, shape, 2))
    assert (prepared(coded).native is None) == (rows * 1000 > 1 << 20)
    assert_same(decoded(coded, range(7, 40), "float32", NATIVE[0]), expected(coded, range(7, 40), "float32"))


def view(**changes: Any) -> _native.Strips:
    """A view of 4 × 20 codes of 3 bits, skipping 2, in groups of 8 weights that begin with the third."""
    numbers = np.ones(11, np.float32)
    given: dict[str, Any] = {
        "rows": 4, "inputs": 20, "codes": np.zeros(31, np.uint8), "skip": 2, "bits": 3, "bias": 0.0, "table": None,
        "spread": 1, "size": 8, "high": 1, "first": 2, "groups": None, "scales": numbers, "minus": numbers,
        "plus": numbers, "offset": 0.0, "normal": False,
    }  # fmt: skip
    return _native.plain(**given | changes)


MAP = {"spread": 3, "size": 3, "scales": np.ones(12, np.float32), "minus": None, "plus": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": np.zeros(30, np.uint8)}, "codes are longer"),
        ({"rows": 5}, "codes are longer"),
        ({"skip": 8}, "skipped"),
        ({"bits": 9}, "bits out of range"),
        ({"rows": 0}, "empty"),
        ({"rows": 1 << 60}, "too large"),
        ({"scales": np.ones(10, np.float32)}, "scales have another shape"),
        ({"first": 9}, "scales have another shape"),
        ({"plus": np.ones(12, np.float32)}, "offsets have another shape"),
        ({"table": np.ones(7, np.float32)}, "table has 2"),
        ({"spread": 4}, "groups out of range"),
        ({"spread": 2, "size": 2}, "groups out of range"),
        ({"size": 0}, "groups out of range"),
        ({"high": 0, "spread": 0}, "groups out of range"),
        ({"groups": np.zeros(20, np.uint32)}, "only a map"),
        (MAP, "only a map"),
        (MAP | {"groups": np.zeros(19, np.uint32)}, "groups have another shape"),
        (MAP | {"groups": np.full(20, 3, np.uint32)}, "a group does not exist"),
    ],
)
def test_views_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view(**changes)


def sums(**changes: Any) -> _native.Strips:
    """A view of 5 × 12 weights in blocks of 2 × 4, two codes of 3 bits each, skipping 2."""
    given: dict[str, Any] = {
        "rows": 5, "inputs": 12, "codes": np.zeros(8, np.uint8), "skip": 2, "bits": 3, "count": 2, "block_rows": 2,
        "wide": 4, "books": np.ones(2 * 8 * 8 + 15, np.float32), "spread": 0, "size": 12, "high": 1, "first": 0,
        "groups": None, "scales": np.ones(5, np.float32), "normal": False,
    }  # fmt: skip
    return _native.sums(**given | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": np.zeros(7, np.uint8)}, "codes are longer"),
        ({"rows": 7}, "codes are longer"),
        ({"skip": 8}, "skipped"),
        ({"bits": 17}, "bits out of range"),
        ({"count": 65}, "books or blocks out of range"),
        ({"block_rows": 1 << 60}, "books or blocks out of range"),
        ({"wide": 5}, "blocks do not fill"),
        ({"rows": 0}, "empty"),
        ({"rows": 1 << 46, "block_rows": 1, "wide": 1}, "too large"),
        ({"books": np.ones(2 * 8 * 8 + 14, np.float32)}, "books have another shape"),
        ({"scales": np.ones(4, np.float32)}, "scales have another shape"),
        ({"size": 0}, "groups out of range"),
    ],
)
def test_views_of_sums_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sums(**changes)


def test_whole_views_are_allowed() -> None:
    assert isinstance(sums(), _native.Strips)
    assert isinstance(view(), _native.Strips)
    assert isinstance(view(**MAP | {"groups": np.full(20, 2, np.uint32)}), _native.Strips)


@pytest.mark.parametrize("coding", [Lookup(bits=6, table="row"), Affine(bits=8, signed=True), dense("float16")])
def test_matrices_without_weights_have_no_view(coding: Coding) -> None:
    for shape in ((0, 5), (5, 0)):
        coded = Coded(coding, shape, arrays_for(coding, shape, 0))
        assert prepared(coded).native is None
        assert decoded(coded, range(shape[0]), "float32", NATIVE[0]) is None
