"""The plain read reads everything, whatever the length, the start and the threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat import kernels

# Whole steps are summed as words, what is left as bytes.
STEP = 512


@pytest.mark.parametrize("threads", [1, 2, 3])
@given(length=st.integers(0, 20 * STEP), start=st.integers(0, 64), prefetch=st.booleans(), seed=st.integers(0, 99))
def test_the_sum_is_that_of_all_bytes(threads: int, length: int, start: int, prefetch: bool, seed: int) -> None:
    extent = np.random.default_rng(seed).integers(0, 256, start + length, np.uint8)[start:]
    whole = length // STEP * STEP
    with np.errstate(over="ignore"):
        expected = extent[:whole].view("<u8").sum(dtype=np.uint64) + extent[whole:].sum(dtype=np.uint64)
    before = kernels.get_threads()
    kernels.set_threads(threads)
    try:
        assert kernels.plain_read(extent, prefetch=prefetch) == expected
    finally:
        kernels.set_threads(before)


def test_a_large_extent_is_shared_out() -> None:
    extent = np.arange(1 << 20, dtype=np.uint64).view(np.uint8)
    assert kernels.plain_read(extent, prefetch=True) == sum(range(1 << 20))


def test_what_is_not_contiguous_is_refused() -> None:
    with pytest.raises(TypeError):
        kernels.plain_read(np.zeros(100, np.uint8)[::2], prefetch=False)
