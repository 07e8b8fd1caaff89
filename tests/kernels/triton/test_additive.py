"""The Triton kernels of `additive` against the numpy decoder, in panels and plain."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qformat import codings
from qformat.codings.grammar import Additive, Block, Coding, Dense, Flat
from tests.kernels.triton.test_panels import check_decoding, check_products, on_device
from tests.strategies import FLOATS, Coded, arrays_for

FEW = settings(max_examples=15)


@st.composite
def additives(draw: st.DrawFn) -> Coded:
    """Books as AQLM, GPTVQ and VPTQ make them: 1 to 16 bits, every float, scales per row, per block or none."""
    high, wide = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    shape = (draw(st.sampled_from([1, 7, 64, 65])), wide * draw(st.integers(1, 20)))
    scales: Coding | None = draw(st.sampled_from([None, *(Dense(dtype=name) for name in FLOATS)]))
    coding = Additive(
        books=draw(st.integers(1, 4)),
        bits=draw(st.sampled_from([1, 3, 4, 7, 8, 8, 11, 12, 15])),
        in_group=wide,
        out_group=high,
        codebooks=Dense(dtype=draw(st.sampled_from(FLOATS))),
        group=draw(st.sampled_from([Block(rows=high), Block(), Block(rows=1, columns=2 * wide), Block(rows=None)])),
        scales=scales,
        layout=draw(st.sampled_from(["plain", "panel"])),
    )
    return Coded(coding, shape, arrays_for(coding, shape, draw(st.integers(0, 2**32 - 1))))


def magnitude(coded: Coded) -> np.ndarray:
    """scale · Σ |entry|: what the sums of entries can lose to rounding is relative to this."""
    arrays = {name: np.abs(array) for name, array in coded.arrays.items()}
    return codings.decode(coded.coding, coded.shape, arrays).astype(np.float64)


@FEW
@given(coded=additives(), batch=st.integers(1, 8), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99))
def test_products_are_within_their_bound(coded: Coded, batch: int, dtype: str, seed: int) -> None:
    check_products(coded, magnitude(coded), batch, dtype, seed)


@FEW
@given(coded=additives(), dtype=st.sampled_from(FLOATS))
def test_decoding_is_the_numpy_decoder(coded: Coded, dtype: str) -> None:
    check_decoding(coded, dtype)


def test_what_has_no_kernel_is_told() -> None:
    """Empty matrices, wide entries and scales that cross rows are left to decoding on the CPU."""
    scaled = Dense(dtype="float16")
    for coding, shape in (
        (Additive(books=1, bits=4, in_group=4), (0, 8)),
        (Additive(books=1, bits=4, in_group=64), (2, 64)),
        (Additive(books=1, bits=4, in_group=4, group=Flat(size=5), scales=scaled), (2, 8)),
    ):
        assert on_device(Coded(coding, shape, arrays_for(coding, shape, 0))) is None
