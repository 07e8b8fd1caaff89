"""Every kernel against the numpy decoder, on every instruction set that this machine has."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat import codings, kernels
from qformat.codings import tables
from qformat.codings.grammar import Affine, Block, Dense, Lookup
from qformat.codings.parts import Read
from qformat.errors import KernelError
from qformat.kernels.operand import Operand, decode_rows, prepare
from tests.strategies import FLOATS, Coded, any_arrays, arrays_for, panel_matrices, shapes

# `amx` has products of its own with many rows of bfloat16 only: see test_batch.py
NATIVE = [name for name in kernels.available() if name not in ("amx", "reference")]

# `exact`: |y − y64| ≤ C·√K·2⁻²⁴·Σ|ŵ·x| for float32 x. bfloat16 and int8 x multiply codes and zeros apart: rounding
# there is relative to Σ (|ŵ| + |scale·zero|)·|x|: `magnitudes` below.
C = 4.0

# `int8`: each x is off by at most half a step of its run, |Δx| ≤ max|x| / 254, each table entry by max|table| / 254.
STEP = 1 / 254


def reader(coded: Coded, extent: np.ndarray) -> Read:
    """What gives bytes of the parts of an extent: copies, beyond which sanitizers see what is read."""
    places = codings.layout(coded.coding, coded.shape).places

    def read(name: str, start: int, stop: int) -> np.ndarray:
        offset, nbytes = places[name]
        assert 0 <= start <= stop <= nbytes
        return extent[offset + start : offset + stop].copy()

    return read


def prepared(coded: Coded, rows: range | None = None) -> Operand:
    extent = codings.pack(coded.coding, coded.shape, coded.arrays)
    arrays = codings.parts(coded.coding, coded.shape, extent)
    return prepare(coded.coding, coded.shape, arrays, reader(coded, extent), rows)


def inputs(coded: Coded, batch: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, coded.shape[1])).astype(np.float32)


def rounding(magnitude: np.ndarray, x: np.ndarray) -> np.ndarray:
    return C * np.sqrt(magnitude.shape[1]) * 2.0**-24 * (np.abs(x) @ magnitude.T) + 1e-30


def magnitudes(coded: Coded, weight: np.ndarray) -> np.ndarray:
    """|ŵ| and what is added to and taken from it on the way: |scale·(code − zero)| or |offset| at both ends."""
    if isinstance(coded.coding, Lookup):
        return np.abs(weight)
    codes = coded.arrays["codes"]
    ends = np.iinfo(codes.dtype).min >> (8 - coded.coding.bits), np.iinfo(codes.dtype).max >> (8 - coded.coding.bits)
    edges = [
        np.abs(codings.decode(coded.coding, coded.shape, {**coded.arrays, "codes": np.full_like(codes, end)}))
        for end in ends
    ]
    return (np.abs(weight) + 2 * edges[0] + 2 * edges[1]).astype(np.float64)


@pytest.mark.parametrize("kernel", NATIVE)
@given(coded=panel_matrices(), batch=st.integers(1, 9), seed=st.integers(0, 99))
def test_exact_float32_is_within_its_bound(kernel: str, coded: Coded, batch: int, seed: int) -> None:
    weight = codings.decode(coded.coding, coded.shape, coded.arrays).astype(np.float64)
    x = inputs(coded, batch, seed)
    y = prepared(coded).matvec(x, "exact", kernel)
    x = x.astype(np.float64)
    assert (np.abs(y - x @ weight.T) <= rounding(np.abs(weight), x)).all()


@pytest.mark.parametrize("kernel", NATIVE)
@given(coded=panel_matrices(), batch=st.integers(1, 9), seed=st.integers(0, 99))
def test_exact_bfloat16_is_within_its_bound(kernel: str, coded: Coded, batch: int, seed: int) -> None:
    weight = codings.decode(coded.coding, coded.shape, coded.arrays).astype(np.float64)
    x = inputs(coded, batch, seed).astype(ml_dtypes.bfloat16)
    y = prepared(coded).matvec(x, "exact", kernel)
    x = x.astype(np.float64)
    assert (np.abs(y - x @ weight.T) <= rounding(magnitudes(coded, weight), x)).all()


@pytest.mark.parametrize("kernel", NATIVE)
@given(coded=panel_matrices(), batch=st.integers(1, 9), seed=st.integers(0, 99))
def test_int8_is_within_half_a_step(kernel: str, coded: Coded, batch: int, seed: int) -> None:
    weight = codings.decode(coded.coding, coded.shape, coded.arrays).astype(np.float64)
    x = inputs(coded, batch, seed)
    y = prepared(coded).matvec(x, "int8", kernel)
    top = np.abs(x).max(axis=1, keepdims=True).astype(np.float64)
    bound = STEP * top * np.abs(weight).sum(axis=1)
    if isinstance(coded.coding, Lookup):
        table = coded.arrays["table"] if coded.coding.table == "tensor" else tables.values(coded.coding.table)
        scales = (
            np.abs(codings.decode_child(coded.coding, coded.shape, coded.arrays, "scales"))
            .max(axis=1)
            .astype(np.float64)
        )
        bound = bound + STEP * (1 + STEP) * np.abs(table).max() * scales * np.abs(x).sum(axis=1, keepdims=True)
    x = x.astype(np.float64)
    assert (np.abs(y - x @ weight.T) <= bound * 1.001 + rounding(magnitudes(coded, weight), x)).all()


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("size", [1e-36, 1e-37, 1e-40, 1e-45])
def test_int8_of_numbers_without_an_inverse(kernel: str, table: bool, size: float) -> None:
    """What is too small to be scaled to bytes counts as nothing: it is lost at worst."""
    group, scales = Block(rows=1, columns=64), Dense(dtype="float32")
    if table:
        coding: Affine | Lookup = Lookup(bits=4, table="tensor", group=group, scales=scales, layout="panel")
    else:
        coding = Affine(bits=4, group=group, scales=scales, zeros=Dense(dtype="float16"), layout="panel")
    coded = Coded(coding, (20, 77), arrays_for(coding, (20, 77), 0))
    if table:
        coded.arrays["table"] *= np.float32(size)
    x = inputs(coded, 3, 0) * np.float32(1 if table else size)
    weight = np.abs(codings.decode(coding, coded.shape, coded.arrays).astype(np.float64))
    y = prepared(coded).matvec(x, "int8", kernel)
    assert (np.abs(y) <= 1.1 * np.abs(x).max() * weight.sum(axis=1) + 1e-37).all()


@pytest.mark.parametrize("kernel", NATIVE)
@given(shape=shapes(), dtype=st.sampled_from(FLOATS), batch=st.integers(1, 6), seed=st.integers(0, 99))
def test_dense_is_within_its_bound(kernel: str, shape: tuple[int, int], dtype: str, batch: int, seed: int) -> None:
    coding = Dense(dtype=dtype)
    coded = Coded(coding, shape, arrays_for(coding, shape, seed))
    weight = codings.decode(coding, shape, coded.arrays).astype(np.float64)
    x = inputs(coded, batch, seed)
    y = prepared(coded).matvec(x, "exact", kernel)
    assert (np.abs(y - x.astype(np.float64) @ weight.T) <= rounding(np.abs(weight), x.astype(np.float64))).all()


def same_on_any_threads(operand: kernels.operand.Operand, x: np.ndarray) -> bool:
    """Whether both modes give the same bits on one, two and three threads."""
    before = kernels.get_threads()
    try:
        results = []
        for count in (1, 2, 3):
            kernels.set_threads(count)
            results.append([operand.matvec(x, mode, kernels.active()) for mode in ("exact", "int8")])
    finally:
        kernels.set_threads(before)
    return all(np.array_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@given(coded=panel_matrices(), seed=st.integers(0, 99))
def test_results_do_not_depend_on_the_number_of_threads(coded: Coded, seed: int) -> None:
    assert same_on_any_threads(prepared(coded), inputs(coded, 3, seed))


@pytest.mark.parametrize("kernel", kernels.available())
def test_values_that_are_not_finite_come_out_as_nan(kernel: str) -> None:
    coded = Coded(Dense(dtype="float32"), (3, 5), {"values": np.ones((3, 5), np.float32)})
    x = np.array([[np.inf, -np.inf, 1, 1, 1]], np.float32)
    assert np.isnan(prepared(coded).matvec(x, "exact", kernel)).all()


def test_the_wrong_x_is_refused() -> None:
    operand = prepared(Coded(Dense(dtype="float32"), (3, 5), {"values": np.ones((3, 5), np.float32)}))
    with pytest.raises(KernelError, match=r"wrong shape \(expected \(batch, 5\), found \(1, 4\)\)"):
        operand.matvec(np.zeros((1, 4), np.float32), "exact", kernels.active())
    with pytest.raises(KernelError, match="wrong dtype"):
        operand.matvec(np.zeros((1, 5), np.float64), "exact", kernels.active())


def test_the_choice_is_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFORMAT_KERNEL", "generic")
    assert kernels.active() == "generic"
    monkeypatch.setenv("QFORMAT_KERNEL", "sse9")
    with pytest.raises(KernelError, match="unknown kernel"):
        kernels.active()
    monkeypatch.delenv("QFORMAT_KERNEL")
    assert kernels.active() == kernels.available()[0]


_PANEL: dict[str, Any] = {
    "bits": 4, "group": Block(columns=64), "scales": Dense(dtype="float16"), "layout": "panel",
}  # fmt: skip


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize(
    "coding",
    [
        Lookup(table="nf4", offset=Dense(dtype="float32"), **_PANEL),
        Lookup(table="row", **_PANEL),
        Affine(zeros=Affine(bits=4, signed=True), **_PANEL),
    ],
)
def test_what_the_native_kernels_do_not_know_is_right_all_the_same(kernel: str, coding: Affine | Lookup) -> None:
    shape = (40, 128)
    coded = Coded(coding, shape, any_arrays(coding, shape, 3))
    weight, x = codings.decode(coding, shape, coded.arrays), inputs(coded, 2, 3)
    bound = rounding(np.abs(weight).astype(np.float64) + 100 * np.abs(weight).max(), x)
    assert (np.abs(prepared(coded).matvec(x, "exact", kernel) - x.astype(np.float64) @ weight.T) <= bound).all()
    extent, out = codings.pack(coding, shape, coded.arrays), np.empty(shape, np.float32)
    arrays = codings.parts(coding, shape, extent)
    if decode_rows(coding, shape, arrays, reader(coded, extent), range(shape[0]), out, kernel):
        assert np.array_equal(out, weight)
