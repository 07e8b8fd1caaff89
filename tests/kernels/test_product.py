"""Products of whole weights: transforms and corrections around any coding, by every kernel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qformat import codings, corrections, kernels, linear, schemes, transforms
from qformat.codings.grammar import Affine, Block, Dense
from qformat.codings.parts import Window
from qformat.kernels.around import around
from qformat.schemes import Activations, Scheme
from tests.strategies import FLOATS, Linear, arrays_for, linears


def magnitude(case: Linear, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σ|…| of every product and sum on the way from |x| to y: what rounding errors are relative to."""
    arrays, scheme = case.arrays, case.scheme

    def matrix(kind: str, number: int, width: int, after: int) -> NDArray[np.float64]:
        its = {name.split(".", 2)[2]: a for name, a in arrays.items() if name.startswith(f"{kind}.{number}.")}
        return np.abs(transforms.apply(getattr(scheme, kind)[number], its, np.eye(width), after))  # Tᵀ

    coded = linear.coded_shape(scheme, case.shape, case.parameters)
    size, width = np.abs(x), case.shape[1]
    for number, transform in enumerate(scheme.transforms):
        after = coded[1] if isinstance(transform, transforms.Reassemble) else width
        size = size @ matrix("transforms", number, width, after)
        width = after
    weight = np.abs(codings.decode(scheme.coding, coded, arrays).astype(np.float64))
    assume(np.isfinite(weight).all() and weight.max(initial=0) < 1e20)  # tables of powers of two, NaN in fp8
    size = size @ weight.T
    for number in reversed(range(len(scheme.output_transforms))):
        size = size @ matrix("output_transforms", number, case.shape[0], case.shape[0]).T
    for number, correction in enumerate(scheme.corrections):
        its = {name.split(".", 2)[2]: a for name, a in arrays.items() if name.startswith(f"corrections.{number}.")}
        its = {name: np.abs(a.astype(np.float64)) if name in ("a", "b", "values") else a for name, a in its.items()}
        added = corrections.add(np.zeros(case.shape), correction, its, Window(0, case.shape[0], 0, case.shape[1]))
        size = size + np.abs(x) @ added.T
    return size


def product(case: Linear, rows: range | None = None) -> kernels.Product:
    stored = linear.pack(case.scheme, case.shape, case.arrays, case.parameters)
    parts = linear.parts(case.scheme, case.shape, case.parameters, stored)
    secure = linear.secure(case.scheme, case.shape, case.parameters, parts)
    return kernels.Product(case.scheme, case.shape, case.parameters, secure, stored, rows)


@given(linears(), st.sampled_from([1, 3, 12]), st.data())
def test_product_is_that_of_its_parts(case: Linear, batch: int, data: st.DataObject) -> None:
    """Exact products, of all rows or of some, are the reference's to the rounding of float32 sums."""
    x = np.random.default_rng(batch).standard_normal((batch, case.shape[1])).astype(np.float32)
    size = magnitude(case, x.astype(np.float64))
    expected = linear.matvec(case.scheme, case.shape, case.arrays, x, case.parameters)
    rows = range(case.shape[0])
    if linear.row_local(case.scheme):
        start = data.draw(st.integers(0, case.shape[0]))
        rows = range(start, data.draw(st.integers(start, case.shape[0])))
    made = product(case, rows)
    terms = sum(case.shape) + sum(case.parameters)
    bound = (8 + 4 * terms**0.5) * 2**-24 * size[:, rows.start : rows.stop] + 1e-37
    for kernel in kernels.available():
        y = made.matvec(x, "exact", kernel)
        assert (np.abs(y - expected[:, rows.start : rows.stop]) <= bound).all()


@pytest.mark.parametrize("kernel", [name for name in kernels.available() if name != "reference"])
def test_outlying_inputs_are_multiplied_exactly(kernel: str) -> None:
    """LLM.int8 (arXiv 2208.07339 §3.2): what reaches the threshold takes no part in the rounding to eight bits."""
    rng = np.random.default_rng(0)
    affine = Affine(bits=8, signed=True, group=Block(columns=None), scales=Dense(dtype="float32"), layout="panel")
    scheme = Scheme(coding=affine, activations=Activations(bits=8, outlier_threshold=6.0))
    case = Linear(scheme, (40, 256), (), arrays_for(affine, (40, 256), 0))
    x = rng.uniform(-1, 1, (3, 256)).astype(np.float32)
    x[:, 7], x[:, 100] = 6.0, -100.0
    weight = np.abs(linear.decode(scheme, case.shape, case.arrays).astype(np.float64))
    expected = linear.matvec(scheme, case.shape, case.arrays, x)
    step = 0.5 / 127  # of the inputs that are left: all below 1
    bound = step * weight.sum(axis=1) + 1e-5 * (np.abs(x) @ weight.T)
    assert (np.abs(product(case).matvec(x, "int8", kernel) - expected) <= bound).all()
    plain = Linear(Scheme(coding=affine), case.shape, (), case.arrays)
    assert not (np.abs(product(plain).matvec(x, "int8", kernel) - expected) <= bound).all()


@pytest.mark.parametrize("kernel", kernels.available())
@pytest.mark.parametrize("dtype", FLOATS)
def test_some_rows_of_what_is_dense(kernel: str, dtype: str) -> None:
    scheme = Scheme(coding=Dense(dtype=dtype))
    case = Linear(scheme, (9, 24), (), arrays_for(scheme.coding, (9, 24), 0))
    x = np.random.default_rng(0).standard_normal((2, 24)).astype(np.float32)
    expected = linear.matvec(scheme, case.shape, case.arrays, x)[:, 3:8]
    found = product(case, range(3, 8)).matvec(x, "exact", kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [1, 2, 64, 128, 4096, 8192])
def test_hadamard_matrices_of_any_size_are_products_of_small_ones(block: int) -> None:
    """As the butterflies of the definition, and orthogonal."""
    scheme = schemes.Scheme(
        coding=codings.grammar.Dense(dtype="float32"), transforms=(transforms.Hadamard(block=block),)
    )
    x = np.random.default_rng(0).standard_normal((3, 8192))
    signs = np.where(x[0] < 0, -1, 1).astype(np.int8)
    made = around(scheme, {"transforms.0.signs": signs}, range(1)).before(x)
    np.testing.assert_allclose(made, transforms.apply(scheme.transforms[0], {"signs": signs}, x, 8192), atol=1e-12)
    np.testing.assert_allclose((made**2).sum(axis=1), (x**2).sum(axis=1))
