"""Bit streams and planes of dwords."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat.codings import bits as bit


@given(st.integers(1, 16), st.lists(st.integers(0, 2**16 - 1), max_size=70), st.integers(0, 7))
def test_a_stream_is_one_big_integer(bits: int, numbers: list[int], skip: int) -> None:
    codes = np.array([number % 2**bits for number in numbers], bit.code_dtype(bits))
    stored = bit.pack_stream(codes, bits)
    expected = sum(int(code) * 2 ** (bits * place) for place, code in enumerate(codes))
    assert stored.tobytes() == expected.to_bytes(bit.stream_bytes(len(codes), bits), "little")
    skip = min(skip, len(codes))
    assert np.array_equal(bit.unpack_stream(stored, bits, len(codes) - skip, skip), codes[skip:])


@given(st.integers(1, 8), st.integers(1, 130), st.integers(0, 2**32 - 1))
def test_dwords_hold_input_4j_plus_k_in_field_j_of_byte_k(bits: int, run: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (3, run)).astype(np.uint8)
    planes = bit.pack_dwords(codes, bits)
    assert np.array_equal(bit.unpack_dwords(planes, bits, run), codes)
    low = 0
    for width, plane in zip(bit.PLANES[bits], planes, strict=True):
        for place in range(run):
            column, within = divmod(place, 32 // width)
            field, byte = divmod(within, 4)
            found = plane[:, column] // 2 ** (8 * byte + width * field) % 2**width
            assert np.array_equal(found, codes[:, place].astype(int) // 2**low % 2**width)
        low += width


@pytest.mark.parametrize("bits", bit.PLANES)
def test_planes_make_up_the_width(bits: int) -> None:
    widths = bit.PLANES[bits]
    assert sum(widths) == bits
    assert list(widths) == sorted(widths, reverse=True)


@given(st.integers(1, 16), st.integers(0, 2**32 - 1))
def test_lanes_hold_row_j_times_8w_plus_k_in_field_j_of_byte_k(bits: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (3, bit.LANES)).astype(bit.code_dtype(bits))
    packed = bit.pack_lanes(codes, bits)
    assert packed.shape == (3, bit.lane_bytes(bits))
    assert np.array_equal(bit.unpack_lanes(packed, bits), codes)
    assert sum(bit.lane_planes(bits)) == bits
    start = low = 0
    for width in bit.lane_planes(bits):
        for lane in range(bit.LANES):
            field, byte = divmod(lane, 8 * width)
            found = packed[:, start + byte].astype(int) // 2 ** (field * width) % 2**width
            assert np.array_equal(found, codes[:, lane].astype(int) // 2**low % 2**width)
        start, low = start + 8 * width, low + width
