"""Every coding: bytes and arrays invert each other, a rectangle decodes as it does within the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat import codings
from qformat.codings.grammar import Affine, Block, Dense, Flat, Lookup
from qformat.codings.parts import ALIGNMENT, Window, whole
from qformat.errors import InvalidFileError
from tests.strategies import Coded, any_arrays, any_shapes, coded, panel_codings


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


@given(coded())
def test_bytes_and_arrays_invert_each_other(case: Coded) -> None:
    codings.validate(case.coding)
    stored = codings.pack(case.coding, case.shape, case.arrays)
    found = codings.unpack(case.coding, case.shape, stored)
    assert set(found) == set(case.arrays) == set(codings.roles(case.coding, case.shape))
    assert all(_same(found[name], array) for name, array in case.arrays.items())
    assert np.array_equal(codings.pack(case.coding, case.shape, found), stored)
    codings.check_padding(case.coding, case.shape, stored)


@given(coded())
def test_layout_is_gapless_but_for_alignment(case: Coded) -> None:
    extent, end = codings.layout(case.coding, case.shape), 0
    for offset, nbytes in extent.places.values():
        assert offset % ALIGNMENT == 0
        assert end <= offset < end + ALIGNMENT
        end = offset + nbytes
    assert extent.length == end


@given(coded(), st.data())
def test_a_rectangle_decodes_as_within_the_whole(case: Coded, data: st.DataObject) -> None:
    expected = codings.decode(case.coding, case.shape, case.arrays)
    assert expected.shape == case.shape
    assert expected.dtype == np.float32
    sides = []
    for side in case.shape:
        start = data.draw(st.integers(0, side))
        sides += [start, data.draw(st.integers(start, side))]
    window = Window(*sides)
    parts = codings.parts(case.coding, case.shape, codings.pack(case.coding, case.shape, case.arrays))
    assert _same(codings.decode(case.coding, case.shape, parts, window), np.ascontiguousarray(expected[window.slices]))


@given(panel_codings(), any_shapes(), st.integers(0, 2**32 - 1))
def test_panels_and_plain_hold_the_same(coding: Affine | Lookup, shape: tuple[int, int], seed: int) -> None:
    arrays = any_arrays(coding, shape, seed)
    plain = type(coding)(**{**{name: getattr(coding, name) for name in coding.__struct_fields__}, "layout": "plain"})
    stored = codings.pack(coding, shape, arrays)
    there = codings.pack(plain, shape, codings.unpack(coding, shape, stored))
    assert np.array_equal(codings.pack(coding, shape, codings.unpack(plain, shape, there)), stored)
    assert _same(codings.decode(coding, shape, arrays), codings.decode(plain, shape, arrays))


class Recorder:
    """A buffer that remembers which bytes were asked for."""

    def __init__(self, stored: np.ndarray) -> None:
        self.stored, self.read = stored, np.zeros(len(stored), bool)

    def __getitem__(self, key: slice) -> np.ndarray:
        self.read[key] = True
        return self.stored[key]


@pytest.mark.parametrize("layout", ["plain", "panel"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_rows_read_only_their_bytes(layout: str, bits: int) -> None:
    scales = Affine(bits=6, group=Block(rows=1, columns=4), scales=Dense(dtype="float16"))
    coding = Affine(
        bits=bits, group=Block(rows=1, columns=32), scales=scales, zeros=Dense(dtype="float16"), layout=layout
    )
    shape = (160, 320)
    arrays = any_arrays(coding, shape, bits)
    buffer = Recorder(codings.pack(coding, shape, arrays))
    parts = codings.parts(coding, shape, buffer)
    codings.decode(coding, shape, parts, Window(32, 48, 0, shape[1]))
    assert buffer.read.sum() <= len(buffer.stored) / 10 + ALIGNMENT


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("signed", [False, True])
def test_affine_is_its_formula(bits: int, signed: bool) -> None:
    coding = Affine(
        bits=bits, signed=signed, group=Flat(size=3), scales=Dense(dtype="float16"), zeros=Dense(dtype="float32")
    )
    arrays = any_arrays(coding, (5, 7), bits)
    group = np.arange(35) // 3
    scale, zero = arrays["scales"][0][group].astype(np.float32), arrays["zeros"][0][group]
    expected = scale * (arrays["codes"].reshape(-1).astype(np.float32) - zero)
    assert np.array_equal(codings.decode(coding, (5, 7), arrays).reshape(-1), expected)


def test_double_quantization_is_its_formula() -> None:
    scales = Lookup(
        bits=8, table="dynamic8", group=Flat(size=256), scales=Dense(dtype="float32"), offset=Dense(dtype="float32")
    )
    coding = Lookup(bits=4, table="nf4", group=Flat(size=64), scales=scales)
    arrays = any_arrays(coding, (37, 83), 1)
    assert set(arrays) == {"scales.scales", "scales.offset", "scales.codes", "codes"}
    block = np.arange(37 * 83) // 64
    dynamic, nf4 = codings.lookup.tables.values("dynamic8"), codings.lookup.tables.values("nf4")
    absmax = arrays["scales.scales"][0][np.arange(block[-1] + 1) // 256] * dynamic[arrays["scales.codes"][0]]
    absmax = absmax + arrays["scales.offset"][0, 0]
    expected = absmax[block] * nf4[arrays["codes"].reshape(-1)]
    assert np.array_equal(codings.decode(coding, (37, 83), arrays).reshape(-1), expected)


@given(coded(), st.data())
def test_pack_refuses_what_does_not_fit(case: Coded, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(case.arrays)))
    right = case.arrays[name]
    for wrong in (None, right.reshape(*right.shape, 1), right.astype(np.complex128)):
        arrays = {key: array for key, array in case.arrays.items() if key != name}
        if wrong is not None:
            arrays[name] = wrong
        with pytest.raises(InvalidFileError) as error:
            codings.pack(case.coding, case.shape, arrays)
        assert error.value.field == name


@given(coded())
def test_parts_are_lazy_arrays(case: Coded) -> None:
    parts = codings.parts(case.coding, case.shape, codings.pack(case.coding, case.shape, case.arrays))
    assert all(_same(whole(part), case.arrays[name]) for name, part in parts.items())


@pytest.mark.parametrize(("signed", "least", "most"), [(False, 0, 7), (True, -4, 3)])
def test_codes_that_their_bits_do_not_hold_are_refused(signed: bool, least: int, most: int) -> None:
    coding = Affine(bits=3, signed=signed, group=Block(columns=16), scales=Dense(dtype="float32"))
    arrays = any_arrays(coding, (2, 16), 0)
    for code in (least, most):
        arrays["codes"] = np.full((2, 16), code, np.int8 if signed else np.uint8)
        assert np.array_equal(
            codings.unpack(coding, (2, 16), codings.pack(coding, (2, 16), arrays))["codes"], arrays["codes"]
        )
    for code in (least - 1, most + 1):
        if code >= 0 or signed:
            arrays["codes"][1, 3] = code
            with pytest.raises(InvalidFileError, match="code out of range") as caught:
                codings.pack(coding, (2, 16), arrays)
            assert (caught.value.field, caught.value.found) == ("codes", code)
