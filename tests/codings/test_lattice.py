"""`lattice` against a slow port of what QuIP# publishes: its packed table, its 64-bit words, one weight at a time."""

from __future__ import annotations

import hashlib
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qformat import codings, linear, schemes
from qformat.codings import lattice
from qformat.codings.grammar import Lattice
from qformat.codings.parts import Window

# The vectors of norm 12, doubled, as they are listed there.
NORM_12 = """31113333 13113333 11313333 11133333 33313311 33313131 33311331 33313113 33311313 33311133
             33133311 33133131 33131331 33133113 33131313 33131133 31333311 31333131 31331331 31333113
             31331313 13331133 13333311 13333131 13331331 13333113 13331313 11331333 33113331"""


def _packed_table() -> list[int]:
    """256 magnitudes as nibbles of 2·value + 8, in the order 0, 2, 4, 6, 1, 3, 5, 7, the last negative for odd sums."""
    short = {
        tuple(abs(x) for x in vector)
        for vector in product((-5, -3, -1, 1, 3, 5), repeat=8)
        if sum(x * x for x in vector) <= 40 and sum(vector) % 4 == 0
    }
    table = []
    for vector in [*sorted(short), *([int(x) for x in row] for row in NORM_12.split())]:
        nibbles = [vector[i] for i in (0, 2, 4, 6, 1, 3, 5, 7)]
        if sum(vector) // 2 % 2:
            nibbles[7] = -nibbles[7]
        table.append(sum((x + 8) << 4 * place for place, x in enumerate(nibbles)))
    return table


def _decoded(code: int, table: list[int]) -> list[float]:
    signs, parity = code & 255, (code & 255).bit_count() % 2
    signs ^= parity
    vector = []
    for place in (0, 4, 1, 5, 2, 6, 3, 7):
        value = ((table[code >> 8] >> 4 * place & 15) - 8) * 0.5
        vector.append((-value if signs >> place & 1 else value) + (-0.25 if parity else 0.25))
    return vector


@pytest.fixture(scope="module")
def e8p() -> NDArray[np.float32]:
    """The points as the port makes them."""
    table = _packed_table()
    return np.array([_decoded(code, table) for code in range(2**16)], np.float32)


def test_e8p_is_the_published_table(e8p: NDArray[np.float32]) -> None:
    assert np.array_equal(lattice.values("e8p"), e8p)
    assert len(np.unique(e8p, axis=0)) == 2**16
    shifted = 2 * (e8p.astype(np.float64) - 0.25)  # E8, doubled: all even or all odd, the sum a multiple of four
    assert np.array_equal(shifted % 2, np.repeat(shifted[:, :1] % 2, 8, axis=1))
    assert not (shifted.sum(axis=1) % 4).any()


def test_e81b_is_the_published_table() -> None:
    every = [vector for sides in (range(-8, 8, 2), range(-7, 9, 2)) for vector in _near(sides)]
    axes = [[4 * (i == j) * sign for j in range(8)] for sign in (1, -1) for i in range(8)]
    assert np.array_equal(2 * lattice.values("e81b"), np.array([*every, *axes[:-1]]))


def _near(sides: range) -> list[tuple[int, ...]]:
    """Doubled vectors of these components in lexicographic order, of even sum and norm two at most."""
    small = [x for x in sides if abs(x) <= 2]
    return [v for v in product(small, repeat=8) if sum(v) % 4 == 0 and sum(x * x for x in v) <= 8]


def test_the_hashes_of_the_specification() -> None:
    for name, times, digest in (("e8p", 4, "ea3883a85a627590"), ("e81b", 2, "37ce1a66345c1bbc")):
        assert hashlib.sha256((lattice.values(name) * times).astype(np.int8).tobytes()).hexdigest().startswith(digest)


def _codes_of(words: NDArray[np.uint64], rows: int, across: int) -> NDArray[np.uint16]:
    """QuIP#'s tiles of 64-bit words: four codes each, magnitudes in the low half, signs interleaved in the high one."""
    codes = np.zeros((rows, across), np.uint16)
    for r, c in np.ndindex(rows, across):
        word = int(words[(r // 16 * (across // 8) + c // 8) * 32 + r % 16 // 2 * 4 + c % 8 // 2])
        lane = r % 2 + 2 * (c % 2)
        signs = sum((word >> 32 + 4 * bit + lane & 1) << bit for bit in range(8))
        codes[r, c] = (word >> 8 * lane & 255) << 8 | signs
    return codes


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_quip(bits: int, e8p: NDArray[np.float32]) -> None:
    """A main code and, over 2.04 or 3.45, one of what it leaves: a byte for eight weights, or as the main one."""
    rng, rows, across = np.random.default_rng(bits), 32, 16
    lattices, factors, arrays = ["e8p"], [1.0], {"codes.0": _codes_of(_words(rng, rows * across // 4), rows, across)}
    expected = e8p[arrays["codes.0"]].astype(np.float64)
    if bits == 3:
        words = _words(rng, rows * across // 8)
        residual = np.array(
            [[int(words[r * across // 8 + c // 8]) >> c % 8 * 8 & 255 for c in range(across)] for r in range(rows)]
        )
        arrays["codes.1"] = residual.astype(np.uint8)
        lattices, factors = ["e8p", "e81b"], [1.0, 1 / 2.04]
        expected += lattice.values("e81b")[residual].astype(np.float64) / 2.04
    if bits == 4:
        arrays["codes.1"] = _codes_of(_words(rng, rows * across // 4), rows, across)
        lattices, factors = ["e8p", "e8p"], [1.0, 1 / 3.45]
        expected += e8p[arrays["codes.1"]].astype(np.float64) / 3.45
    arrays["factors"] = np.float32(factors)
    found = codings.decode(Lattice(lattices=tuple(lattices)), (rows, 8 * across), arrays)
    assert np.abs(found - expected.reshape(found.shape)).max() <= (2.0**-22 if bits > 2 else 0)


def _words(rng: np.random.Generator, count: int) -> NDArray[np.uint64]:
    return rng.integers(0, 2**64, count, dtype=np.uint64)


def test_factors_multiply_and_points_are_added_in_their_order() -> None:
    """In float32, each step rounded."""
    rng, coding = np.random.default_rng(0), Lattice(lattices=("e81b", "e8p", "e8p"))
    arrays: dict[str, NDArray[Any]] = {"factors": rng.standard_normal(3).astype(np.float32)}
    for number, most in enumerate((2**8, 2**16, 2**16)):
        arrays[f"codes.{number}"] = rng.integers(0, most, (3, 4)).astype(np.uint8 if most == 2**8 else np.uint16)
    expected = np.zeros((3, 32), np.float32)
    for row, column in np.ndindex(3, 32):
        for number, name in enumerate(coding.lattices):
            point = lattice.values(name)[arrays[f"codes.{number}"][row, column // 8]]
            expected[row, column] += arrays["factors"][number] * point[column % 8]
    assert np.array_equal(codings.decode(coding, (3, 32), arrays), expected)
    assert np.array_equal(codings.decode(coding, (3, 32), arrays, Window(1, 3, 5, 19)), expected[1:3, 5:19])


def test_a_rotated_matrix() -> None:
    """y = SV ⊙ H (Ŵ · H (SU ⊙ x))."""
    rng = np.random.default_rng(1)
    scale = {"transform": "scale", "dtype": "float16"}
    sides = [[scale, {"transform": "hadamard", "block": block}] for block in (64, 16)]
    coding = {"coding": "lattice", "lattices": ["e8p"]}
    scheme = schemes.parse({"coding": coding, "transforms": sides[0], "output_transforms": sides[1]})
    su, sv = (rng.standard_normal(size).astype(np.float16) for size in (64, 16))
    arrays = {
        "transforms.0.scales": su,
        "transforms.1.signs": np.ones(64, np.int8),
        "output_transforms.0.scales": sv,
        "output_transforms.1.signs": np.ones(16, np.int8),
        "factors": np.float32([1]),
        "codes.0": rng.integers(0, 2**16, (16, 8)).astype(np.uint16),
    }
    h = np.ones((1, 1))
    while len(h) < 64:
        h = np.block([[h, h], [h, -h]])
    inner = lattice.values("e8p")[arrays["codes.0"]].reshape(16, 64).astype(np.float64)
    expected = sv[:, None] * (h[:16, :16] / 4 @ inner @ h / 8) * su
    assert np.allclose(linear.decode(scheme, (16, 64), arrays), expected, atol=1e-4)
