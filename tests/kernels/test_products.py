"""Several matrices with the same x in one call: what each gives alone, bit for bit, rounded to the dtype of x."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat import kernels
from qformat.codings.grammar import Block, Lookup
from qformat.kernels.operand import Operand, Panels
from tests.kernels.test_operand import NATIVE, prepared
from tests.strategies import Coded, arrays_for, panel_codings

DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@st.composite
def matrices_of_one_input(draw: st.DrawFn) -> list[Operand]:
    """One to four matrices in panels, of any codings and heights."""
    inputs = draw(st.one_of(st.integers(1, 300), st.sampled_from([64, 128, 2048])))
    found = []
    for coding in draw(st.lists(panel_codings(), min_size=1, max_size=4)):
        shape = draw(st.integers(1, 70)), inputs
        found.append(prepared(Coded(coding, shape, arrays_for(coding, shape, draw(st.integers(0, 99))))))
    return [operand for operand in found if isinstance(operand.native, Panels)]


def multiplied(operands: list[Operand], x: np.ndarray, mode: kernels.Mode, kernel: str) -> list[np.ndarray]:
    """All of them by one call, with a number after each result that must stay."""
    dtype = next(name for name, known in DTYPES.items() if known == x.dtype)
    outs = [np.full(len(x) * operand.shape[0] + 1, 7, x.dtype) for operand in operands]
    panels = [operand.native for operand in operands if isinstance(operand.native, Panels)]
    kernels.matvecs(kernel, panels, x.ctypes.data, len(x), dtype, mode, [out.ctypes.data for out in outs])
    assert all(out[-1] == 7 for out in outs)
    return [out[:-1].reshape(len(x), -1) for out in outs]


@pytest.mark.parametrize("kernel", NATIVE)
@given(
    operands=matrices_of_one_input(),
    batch=st.integers(1, 17),
    dtype=st.sampled_from(sorted(DTYPES)),
    mode=st.sampled_from(["exact", "int8"]),
    threads=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_each_is_what_it_is_alone(
    kernel: str, operands: list[Operand], batch: int, dtype: str, mode: kernels.Mode, threads: int, seed: int
) -> None:
    """For eight rows at a time, which is how they are read together; on any number of threads."""
    if not operands:
        return
    x = np.random.default_rng(seed).standard_normal((batch, operands[0].shape[1])).astype(DTYPES[dtype])
    before = kernels.get_threads()
    try:
        kernels.set_threads(threads)
        found = multiplied(operands, x, mode, kernel)
    finally:
        kernels.set_threads(before)
    for y, operand in zip(found, operands, strict=True):
        parts = [operand.matvec(x[top : top + 8], mode, kernel) for top in range(0, batch, 8)]
        with np.errstate(over="ignore"):
            assert np.array_equal(y, np.concatenate(parts).astype(x.dtype), equal_nan=True)


def test_what_does_not_fit_is_refused() -> None:
    def matrix(inputs: int) -> Panels:
        coding = Lookup(bits=4, table="nf4", group=Block(rows=1, columns=64), layout="panel")
        native = prepared(Coded(coding, (3, inputs), {"codes": np.zeros((3, inputs), np.uint8)})).native
        assert isinstance(native, Panels)
        return native

    x, out = np.zeros((1, 64), np.float32), np.zeros((1, 3), np.float32)
    at, to = x.ctypes.data, out.ctypes.data
    kernel = kernels.active() if kernels.active() != "reference" else NATIVE[0]
    with pytest.raises(ValueError, match="other inputs"):
        kernels.matvecs(kernel, [matrix(64), matrix(65)], at, 1, "float32", "exact", [to, to])
    with pytest.raises(ValueError, match="as many matrices"):
        kernels.matvecs(kernel, [matrix(64)], at, 1, "float32", "exact", [])
    with pytest.raises(ValueError, match="no memory"):
        kernels.matvecs(kernel, [matrix(64)], at, 1, "float32", "exact", [0])
