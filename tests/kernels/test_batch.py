"""Products with many rows of bfloat16: read once for all of them, and no less exact than those with few."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat import codings, kernels
from qformat.codings.grammar import Block, Lookup
from qformat.kernels.operand import WIDE
from tests.kernels.test_operand import inputs, magnitudes, prepared, rounding
from tests.strategies import Coded, panel_matrices

NATIVE = [name for name in kernels.available() if name != "reference"]
# Where codes are read once for all rows. The others take eight rows at a time, and one alone sums in another order.
TOGETHER = [name for name in NATIVE if name in WIDE]

# Whole blocks and cut ones of every size, and more rows than one pass takes.
BATCHES = st.one_of(st.integers(9, 75), st.sampled_from([120, 239, 240, 241, 500]))


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize("rounded", [False, True])
@given(coded=panel_matrices(), batch=BATCHES, seed=st.integers(0, 99))
def test_it_is_within_its_bound(kernel: str, rounded: bool, coded: Coded, batch: int, seed: int) -> None:
    weight = codings.decode(coded.coding, coded.shape, coded.arrays).astype(np.float64)
    x = inputs(coded, batch, seed).astype(ml_dtypes.bfloat16)
    y = prepared(coded).matvec(x, "exact", kernel, rounded)
    x = x.astype(np.float64)
    bound = rounding(magnitudes(coded, weight), x)
    if rounded and isinstance(coded.coding, Lookup):  # by half a place of bfloat16
        bound = bound + 2.0**-8 * 1.001 * (np.abs(x) @ np.abs(weight).T)
    assert (np.abs(y - x @ weight.T) <= bound).all()


@pytest.mark.parametrize("kernel", TOGETHER)
@given(coded=panel_matrices(), batch=BATCHES, seed=st.integers(0, 99))
def test_a_row_has_the_same_result_in_every_batch_and_on_any_threads(
    kernel: str, coded: Coded, batch: int, seed: int
) -> None:
    operand, x = prepared(coded), inputs(coded, batch, seed).astype(ml_dtypes.bfloat16)
    whole = operand.matvec(x, "exact", kernel, True)
    before = kernels.get_threads()
    try:
        kernels.set_threads(3)
        part = operand.matvec(x[batch - 9 :], "exact", kernel, True)
    finally:
        kernels.set_threads(before)
    assert np.array_equal(whole[batch - 9 :], part)


@pytest.mark.parametrize("kernel", NATIVE)
def test_values_that_are_not_finite_stay_in_their_row(kernel: str) -> None:
    coded = Coded(
        Lookup(bits=4, table="nf4", group=Block(rows=1, columns=64), layout="panel"),
        (17, 64),
        {"codes": np.full((17, 64), 3, np.uint8)},
    )
    x = np.ones((20, 64), ml_dtypes.bfloat16)
    x[4, 5], x[7, 0] = np.inf, np.nan
    y = prepared(coded).matvec(x, "exact", kernel, True)
    assert not np.isfinite(y[[4, 7]]).any()
    assert np.isfinite(np.delete(y, [4, 7], axis=0)).all()
