"""Transforms, codings and corrections together."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qformat import linear, schemes, transforms
from qformat.codings.grammar import Affine, Block, Dense
from qformat.codings.parts import Window
from qformat.dtypes import numpy_dtype
from qformat.errors import InvalidFileError
from qformat.schemes import Scheme
from qformat.transforms import Hadamard, Permute, Rotate, Scale
from tests.strategies import Linear, linears


@given(linears())
def test_schemes_survive_json(case: Linear) -> None:
    document = schemes.dump(case.scheme)
    assert schemes.parse(json.loads(json.dumps(document))) == case.scheme
    assert schemes.dump(schemes.parse(document)) == document


@given(linears())
def test_a_pickled_scheme_has_the_same_json(case: Linear) -> None:
    """What is a default is told by identity, which a pickle alone does not keep."""
    again = pickle.loads(pickle.dumps(case.scheme))
    assert again == case.scheme
    assert schemes.dump(again) == schemes.dump(case.scheme)


@given(linears())
def test_bytes_and_arrays_invert_each_other(case: Linear) -> None:
    stored = linear.pack(case.scheme, case.shape, case.arrays, case.parameters)
    assert len(stored) == linear.layout(case.scheme, case.shape, case.parameters).length
    found = linear.unpack(case.scheme, case.shape, case.parameters, stored)
    assert list(found) == list(linear.roles(case.scheme, case.shape, case.parameters))
    assert all(found[name].tobytes() == array.tobytes() for name, array in case.arrays.items())
    linear.check(case.scheme, case.shape, found, case.parameters)
    linear.check_padding(case.scheme, case.shape, case.parameters, stored)


@given(linears(), st.integers(0, 2**32 - 1))
def test_the_decoded_matrix_multiplies_as_the_parts_do(case: Linear, seed: int) -> None:
    weight = linear.decode(case.scheme, case.shape, case.arrays, parameters=case.parameters).astype(np.float64)
    assume(np.isfinite(weight).all() and np.abs(weight).max(initial=0) < 1e12)  # tables of powers of two, NaN in fp8
    x = np.random.default_rng(seed).standard_normal((2, case.shape[1]))
    y = linear.matvec(case.scheme, case.shape, case.arrays, x, case.parameters)
    assume(np.isfinite(y).all())
    expected = x @ weight.T
    # everything is a short chain of float32 operations on numbers of this size
    scale = np.abs(x) @ np.abs(weight).T + np.abs(expected).max(initial=1) + 1e3 * np.abs(x).sum()
    assert (np.abs(y - expected) <= 1e-4 * scale).all()


@given(linears(), st.data())
def test_a_rectangle_decodes_as_within_the_whole(case: Linear, data: st.DataObject) -> None:
    expected = linear.decode(case.scheme, case.shape, case.arrays, parameters=case.parameters)
    sides = []
    for side in case.shape:
        start = data.draw(st.integers(0, side))
        sides += [start, data.draw(st.integers(start, side))]
    window = Window(*sides)
    stored = linear.pack(case.scheme, case.shape, case.arrays, case.parameters)
    parts = linear.parts(case.scheme, case.shape, case.parameters, stored)
    held = linear.secure(case.scheme, case.shape, case.parameters, parts)
    found = linear.decode(case.scheme, case.shape, held, window, case.parameters)
    assert found.tobytes() == np.ascontiguousarray(expected[window.slices]).tobytes()


@pytest.mark.parametrize("block", [1, 2, 8, 64])
def test_hadamard_is_the_matrix_of_sylvester(block: int) -> None:
    matrix = np.ones((1, 1))
    while len(matrix) < block:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    assert np.array_equal(transforms.hadamard(np.eye(block), block), matrix)


def test_act_order_and_smoothing_give_back_the_matrix_they_were_made_from() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 16, (6, 12)).astype(np.float32)
    order, smooth = rng.permutation(12), 2.0 ** rng.integers(-3, 3, 12)
    scheme = Scheme(
        coding=Affine(bits=4, group=Block(columns=4), scales=Dense(dtype="float32")),
        transforms=(Scale(dtype="float16"), Permute()),
    )
    arrays = {
        "transforms.0.scales": (1 / smooth).astype(np.float16),
        "transforms.1.indices": order.astype(np.uint32),
        "scales": np.ones((6, 3), np.float32),
        "codes": weight[:, order].astype(np.uint8),
    }
    assert np.array_equal(linear.decode(scheme, (6, 12), arrays), weight / smooth)


def test_hadamard_matrices_of_other_sides_are_those_of_quip() -> None:
    """A port of its product with H: butterflies of neighbours first, then the stored matrix over what is left."""
    rng, side, order = np.random.default_rng(5), 48, 12
    squares = {x * x % 11 for x in range(11)}  # Paley's matrix
    base = np.array(
        [[1, *[1] * 11], *([-1, *(1 if (j - i) % 11 in squares else -1 for j in range(11))] for i in range(11))]
    )
    base = base.astype(np.int8)
    x, signs = rng.standard_normal((2, side)), rng.choice([-1, 1], side).astype(np.int8)
    expected = (x * signs).reshape(2, side, 1)
    while expected.shape[1] > order:
        pairs = expected.reshape(2, expected.shape[1] // 2, 2, expected.shape[2])
        both = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        expected = both.reshape(2, both.shape[1], -1)
    expected = (base @ expected).reshape(2, side) / np.sqrt(side)
    scheme = Scheme(coding=Dense(dtype="float32"), transforms=(Hadamard(block=side, base=order),))
    arrays = {
        "transforms.0.signs": signs,
        "transforms.0.base": base,
        "values": np.eye(side, dtype=np.float32),
    }
    linear.check(scheme, (side, side), arrays)
    assert np.allclose(linear.matvec(scheme, (side, side), arrays, x), expected)
    assert np.allclose(x @ linear.decode(scheme, (side, side), arrays).T, expected, atol=1e-5)


def test_rotations_are_those_of_paroquant() -> None:
    """A slow port of its kernel: scales first, then round by round, in pairs that are numbered within their group."""
    rng, group = np.random.default_rng(3), 8
    weight, x = rng.standard_normal((5, 24)).astype(np.float32), rng.standard_normal(24)
    pairs = np.array([[rng.permutation(group) for _ in range(3)] for _ in range(4)]).reshape(4, 24)
    theta, scales = rng.uniform(-4, 4, (4, 12)).astype(np.float16), rng.uniform(0.5, 2, 24).astype(np.float16)
    turned = x * scales
    for number in range(4):
        for pair in range(12):
            first = group * (2 * pair // group)
            i, j = first + pairs[number, 2 * pair], first + pairs[number, 2 * pair + 1]
            c, s, a, b = np.cos(float(theta[number, pair])), np.sin(float(theta[number, pair])), turned[i], turned[j]
            turned[i], turned[j] = a * c + b * s, b * c - a * s
    scheme = Scheme(
        coding=Dense(dtype="float32"), transforms=(Scale(dtype="float16"), Rotate(rounds=4, dtype="float16"))
    )
    arrays = {
        "transforms.0.scales": scales,
        "transforms.1.pairs": (pairs + np.arange(24) // group * group).astype(np.uint32).reshape(4, 12, 2),
        "transforms.1.angles": theta,
        "values": weight,
    }
    linear.check(scheme, (5, 24), arrays)
    assert np.allclose(linear.matvec(scheme, (5, 24), arrays, x[None])[0], weight @ turned, atol=1e-5)
    assert np.allclose(linear.decode(scheme, (5, 24), arrays) @ x, weight @ turned, atol=1e-4)


@pytest.mark.parametrize("side", ["transforms", "output_transforms"])
def test_rotations_are_orthogonal_and_mirrored(side: str) -> None:
    rng = np.random.default_rng(4)
    scheme = schemes.parse(
        {
            "coding": {"coding": "dense", "dtype": "float32"},
            side: [{"transform": "rotate", "rounds": 6, "dtype": "float32"}],
        }
    )
    arrays = {
        f"{side}.0.pairs": np.array([rng.permutation(16) for _ in range(6)], np.uint32).reshape(6, 8, 2),
        f"{side}.0.angles": rng.uniform(-9, 9, (6, 8)).astype(np.float32),
        "values": np.eye(16, dtype=np.float32),
    }
    turn = linear.decode(scheme, (16, 16), arrays)
    assert np.allclose(turn @ turn.T, np.eye(16), atol=1e-5)
    other = {"transforms": "output_transforms", "output_transforms": "transforms"}[side]
    mirrored = schemes.parse({**schemes.dump(scheme), other: schemes.dump(scheme)[side], side: []})
    renamed = {name.replace(side, other): array for name, array in arrays.items()}
    assert np.array_equal(linear.decode(mirrored, (16, 16), renamed), turn.T)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_library_gives_the_same_rotations(dtype: str) -> None:
    """No cosine or sine of a 16-bit angle is so near the middle of two float32 that the last bit of float64 decides."""
    stored = np.arange(2**16, dtype=np.uint16).view(numpy_dtype(dtype))
    with np.errstate(invalid="ignore"):  # signalling NaN among them
        angles = stored.astype(np.float64)
    angles = angles[np.isfinite(angles)]
    for values in (np.cos(angles), np.sin(angles)):
        below, above = (np.nextafter(values, end).astype(np.float32) for end in (-2, 2))
        assert np.array_equal(below, above)


def test_hadamard_inverts_itself() -> None:
    rng = np.random.default_rng(1)
    weight, signs = rng.standard_normal((5, 16)).astype(np.float32), rng.choice([-1, 1], 16).astype(np.int8)
    scheme = Scheme(coding=Dense(dtype="float32"), transforms=(Hadamard(block=16),))
    rotated = transforms.hadamard(weight * signs, 16) / 4
    found = linear.decode(scheme, (5, 16), {"transforms.0.signs": signs, "values": rotated})
    assert np.allclose(found, weight, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "transposed", "matrix"),
    [
        ((), False, (1, 1)), ((7,), False, (1, 7)), ((3, 5), False, (3, 5)), ((3, 5), True, (5, 3)),
        ((2, 3, 5), False, (6, 5)), ((2, 3, 5), True, (10, 3)), ((2, 2, 3, 5), False, (12, 5)), ((0, 5), True, (5, 0)),
    ],
)  # fmt: skip
def test_the_matrix_of_a_shape(shape: tuple[int, ...], transposed: bool, matrix: tuple[int, int]) -> None:
    assert linear.matrix_shape(shape, transposed) == matrix


def test_a_vector_is_not_transposed() -> None:
    with pytest.raises(InvalidFileError):
        linear.matrix_shape((7,), True)
