"""`trellis` against slow ports of what QTIP and EXL3 publish: bytes of their tiles, one weight at a time."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray

from qformat import codings, linear, schemes
from qformat.codings import trellis
from qformat.codings.grammar import Dense, Trellis

Bits = NDArray[Any]  # (tiles, bits of a tile), as a stream


def _half(bits: int) -> float:
    return float(struct.unpack("<e", struct.pack("<H", bits))[0])


def _near_gaussian(x: int) -> float:
    return float(np.float32(sum(x.to_bytes(4, "little")) - 510) / np.float32(147.800537109375))


def _two_halves(x: int) -> float:
    x = (x & 0x8FFF8FFF) ^ 0x3B603B60
    return float(np.float16(_half(x >> 16) + _half(x & 0xFFFF)))


def _two_mad(state: int) -> float:
    x = (state * 264435761 + 1013904223) % 2**32
    return _near_gaussian(((x * 1664525 >> 32) + x) % 2**32)


def _mul1(state: int) -> float:
    total = sum((state * 0x83DCD12D % 2**32).to_bytes(4, "big"))
    exact = (1024 + total) * Fraction(_half(0x1EEE)) + Fraction(_half(0xC931))
    return float(np.float16(float(exact)))  # twenty-odd bits: float64 holds them all


SCALAR = {
    "1mad": lambda s: _near_gaussian((s * 34038481 + 76625530) % 2**32),
    "2mad": _two_mad,
    "3inst": lambda s: _two_halves((s * 89226354 + 64248484) % 2**32),
    "mcg": lambda s: _two_halves(s * 0xCBAC1FED % 2**32),
    "mul1": _mul1,
}


def _weights(coding: Trellis, state: int, table: NDArray[Any] | None) -> list[float]:
    if coding.function in SCALAR:
        return [SCALAR[coding.function](state)]
    assert table is not None
    assert coding.table_bits is not None
    hashed, mask = (state + 1) * state, 2**coding.table_bits - 1
    if coding.function == "lut":
        return [float(value) for value in table[state & mask]]
    if coding.function == "quantlut":
        return [float(value) for value in table[(hashed >> (16 - coding.table_bits)) & mask]]
    first, *others = (float(value) for value in table[(hashed >> (16 - coding.table_bits - 1)) & mask])
    return [first * (1 - 2 * ((hashed >> 15) & 1)), *others]


def _codes(stream: Bits, width: int) -> NDArray[Any]:
    """(tiles, steps) from a stream whose codes have their most significant bit first."""
    steps = stream.reshape(len(stream), -1, width).astype(np.int64)
    return steps @ (1 << np.arange(width)[::-1])


def _tiled(codes: NDArray[Any], coding: Trellis, down: int, across: int) -> NDArray[Any]:
    dtype = np.uint8 if coding.bits * coding.vector <= 8 else np.uint16
    return codes.reshape(down, across, -1).astype(dtype)


@pytest.mark.parametrize("name", SCALAR)
def test_functions_are_their_formulas(name: str) -> None:
    found = trellis.computed(name)[:, 0]
    assert found.dtype == np.float32
    assert all(found[state] == SCALAR[name](state) for state in range(2**16))


@pytest.mark.parametrize("bits", range(1, 9))
def test_exl3(bits: int) -> None:
    """Words of 32 bits, the highest first; states end at (i + 1) · bits; tiles lie by input and are 16 inputs high."""
    coding = Trellis(bits=bits, function=["3inst", "mcg", "mul1"][bits % 3], order="exl3")
    inputs, outputs, rng = 3, 2, np.random.default_rng(bits)
    words = rng.integers(0, 2**32, (inputs, outputs, 8 * bits), dtype=np.uint32)
    stream = np.unpackbits(words.astype(">u4").view(np.uint8), axis=-1)
    expected = np.zeros((16 * inputs, 16 * outputs), np.float32)
    for tile in np.ndindex(inputs, outputs):
        for i in range(256):
            window = [int(stream[tile][((i + 1) * bits - 16 + k) % (256 * bits)]) for k in range(16)]
            t, k = divmod(i, 8)
            row = 2 * (t % 4) + [0, 1, 8, 9][k % 4]
            column = t // 4 + 8 * (k // 4)
            state = int("".join(map(str, window)), 2)
            expected[16 * tile[0] + row, 16 * tile[1] + column] = SCALAR[coding.function](state)
    by_output = stream.swapaxes(0, 1).reshape(inputs * outputs, -1)
    arrays = {"codes": _tiled(_codes(by_output, bits), coding, outputs, inputs)}
    assert np.array_equal(codings.decode(coding, (16 * outputs, 16 * inputs), arrays), expected.T)


QTIP = [
    Trellis(bits=2, function="1mad"),
    Trellis(bits=3, function="2mad"),
    Trellis(bits=4, function="3inst"),
    Trellis(bits=2, function="lut", vector=2, table_bits=16),
    Trellis(bits=1, function="lut", table_bits=14),
    Trellis(bits=3, function="quantlut", vector=2, table_bits=16, table=Dense(dtype="float32")),
    Trellis(bits=2, function="quantlut", table_bits=1),
    *(Trellis(bits=bits, function="quantlut_sym", vector=2, table_bits=9, order="qtip") for bits in (2, 3, 4)),
    Trellis(bits=5, function="quantlut_sym", vector=2, table_bits=15),
]


@pytest.mark.parametrize("coding", QTIP, ids=str)
def test_qtip(coding: Trellis) -> None:
    """Words of 16 bits, the highest first; states begin at i · bits · vector."""
    down, across, width, rng = 2, 3, coding.bits * coding.vector, np.random.default_rng(coding.bits)
    words = rng.integers(0, 2**16, (down * across, 16 * coding.bits), dtype=np.uint16)
    stream = np.unpackbits(words.astype(">u2").view(np.uint8), axis=-1)
    table, arrays = None, {}
    if coding.table_bits is not None:
        shape = (2**coding.table_bits, coding.vector)
        table = arrays["table"] = rng.standard_normal(shape).astype(coding.table.dtype)
    expected = np.zeros((16 * down, 16 * across), np.float32)
    for tile in range(down * across):
        top, left = 16 * (tile // across), 16 * (tile % across)
        for i in range(256 // coding.vector):
            window = [int(stream[tile][(i * width + k) % (256 * coding.bits)]) for k in range(16)]
            for v, weight in enumerate(_weights(coding, int("".join(map(str, window)), 2), table)):
                e = coding.vector * i + v
                row, column = divmod(e, 16)
                if coding.order == "qtip":
                    a, b, c, d, f = e >> 5, e >> 3 & 3, e >> 2 & 1, e >> 1 & 1, e & 1
                    row, column = 8 * d + a, 8 * c + 2 * b + f
                expected[top + row, left + column] = weight
    turned = np.roll(stream, width - 16, axis=1)
    arrays["codes"] = _tiled(_codes(turned, width), coding, down, across)
    assert np.array_equal(codings.decode(coding, expected.shape, arrays), expected)


def test_names_are_the_grammars() -> None:
    kinds = get_type_hints(Trellis)
    assert set(get_args(kinds["function"])) == {*trellis.COMPUTED, *trellis.STORED}
    assert set(get_args(kinds["order"])) == set(trellis.ORDERS)


def test_exl3_rotates_both_sides() -> None:
    """W = diag(suh) · H · Ŵ · H · diag(svh) of (in, out), H orthogonal in blocks of 128."""
    rng, ones = np.random.default_rng(0), np.ones(256, np.int8)
    scale, rotate = {"transform": "scale", "dtype": "float16"}, {"transform": "hadamard", "block": 128}
    coding = {"coding": "trellis", "bits": 3, "function": "mul1", "order": "exl3"}
    scheme = schemes.parse({"coding": coding, "transforms": [scale, rotate], "output_transforms": [scale, rotate]})
    suh, svh = (rng.choice([-1, 1], size) * rng.uniform(0.5, 2, size) for size in (256, 128))
    codes = rng.integers(0, 8, (8, 16, 256)).astype(np.uint8)
    arrays = {
        "transforms.0.scales": suh.astype(np.float16),
        "transforms.1.signs": ones,
        "output_transforms.0.scales": svh.astype(np.float16),
        "output_transforms.1.signs": ones[:128],
        "codes": codes,
    }
    small = np.ones((1, 1))
    while len(small) < 128:
        small = np.block([[small, small], [small, -small]])
    h = small / np.sqrt(128)
    inner = codings.decode(scheme.coding, (128, 256), {"codes": codes}).astype(np.float64).T
    expected = np.diag(suh.astype(np.float16)) @ np.kron(np.eye(2), h) @ inner @ h @ np.diag(svh.astype(np.float16))
    assert np.allclose(linear.decode(scheme, (128, 256), arrays), expected.T, rtol=1e-4, atol=1e-5)
