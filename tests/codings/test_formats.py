"""Other formats decode, in this grammar, to exactly what their own programs make of the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from qformat import codings
from qformat.codings.grammar import Affine, Block, Coding, Comb, Dense, Flat, Lookup

F16 = Dense(dtype="float16")
ROWS = 5

Blocks = NDArray[np.uint8]  # (rows, blocks of a row, bytes of a block)
Arrays = dict[str, NDArray[Any]]


def _half(blocks: Blocks, at: int) -> NDArray[np.float16]:
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0]


def _nibbles(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Element i of h bytes is the low nibble of byte i, element h + i its high one."""
    return np.concatenate([stored & 15, stored >> 4], axis=-1)


def _row(codes: NDArray[Any]) -> NDArray[Any]:
    """(rows, blocks, …) as (rows, everything)."""
    return np.ascontiguousarray(codes.reshape(len(codes), -1))


def _q4_0(b: Blocks) -> tuple[Coding, Arrays]:
    codes = _nibbles(b[..., 2:]).astype(np.int8) - 8
    return Affine(bits=4, signed=True, group=Block(columns=32), scales=F16), {
        "codes": _row(codes),
        "scales": _half(b, 0),
    }


def _q4_1(b: Blocks) -> tuple[Coding, Arrays]:
    arrays = {"codes": _row(_nibbles(b[..., 4:])), "scales": _half(b, 0), "offsets": _half(b, 2)}
    return Affine(bits=4, group=Block(columns=32), scales=F16, offsets=F16), arrays


def _q5_1(b: Blocks) -> tuple[Coding, Arrays]:
    high = np.unpackbits(b[..., 4:8], axis=-1, bitorder="little")
    arrays = {"codes": _row(_nibbles(b[..., 8:]) | high << 4), "scales": _half(b, 0), "offsets": _half(b, 2)}
    return Affine(bits=5, group=Block(columns=32), scales=F16, offsets=F16), arrays


def _q8_0(b: Blocks) -> tuple[Coding, Arrays]:
    arrays = {"codes": _row(b[..., 2:].view(np.int8)), "scales": _half(b, 0)}
    return Affine(bits=8, signed=True, group=Block(columns=32), scales=F16), arrays


def _twos(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """64 bytes of 2-bit codes: 32 bytes hold 128 of them, four runs of 32."""
    halves = stored.reshape(*stored.shape[:-1], 2, 1, 32)
    return (halves >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(*stored.shape[:-1], 256)


def _q2_k(b: Blocks) -> tuple[Coding, Arrays]:
    number = Affine(bits=4, group=Block(columns=16), scales=F16)
    arrays = {
        "codes": _row(_twos(b[..., 16:80])),
        "scales.codes": _row(b[..., :16] & 15),
        "scales.scales": _half(b, 80),
        "offsets.codes": _row(b[..., :16] >> 4),
        "offsets.scales": -_half(b, 82),
    }
    return Affine(bits=2, group=Block(columns=16), scales=number, offsets=number), arrays


def _q3_k(b: Blocks) -> tuple[Coding, Arrays]:
    high = (b[..., None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & 1).reshape(*b.shape[:-1], 256)
    codes = _twos(b[..., 32:96]).astype(np.int8) - 4 * (1 - high.astype(np.int8))
    packed = b[..., 96:108]
    low = np.concatenate([packed[..., :8] & 15, packed[..., :8] >> 4], axis=-1)
    top = np.concatenate([packed[..., 8:] >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1)
    arrays = {
        "codes": _row(codes),
        "scales.codes": _row((low | top << 4).astype(np.int8) - 32),
        "scales.scales": _half(b, 108),
    }
    scales = Affine(bits=6, signed=True, group=Block(columns=16), scales=F16)
    return Affine(bits=3, signed=True, group=Block(columns=16), scales=scales), arrays


def _q4_k(b: Blocks) -> tuple[Coding, Arrays]:
    s, quarters = b[..., 4:16], b[..., 16:].reshape(*b.shape[:-1], 4, 32)
    scale = np.concatenate([s[..., :4] & 63, s[..., 8:] & 15 | s[..., :4] >> 6 << 4], axis=-1)
    least = np.concatenate([s[..., 4:8] & 63, s[..., 8:] >> 4 | s[..., 4:8] >> 6 << 4], axis=-1)
    number = Affine(bits=6, group=Block(columns=8), scales=F16)
    arrays = {
        "codes": _row(np.stack([quarters & 15, quarters >> 4], axis=-2)),
        "scales.codes": _row(scale),
        "scales.scales": _half(b, 0),
        "offsets.codes": _row(least),
        "offsets.scales": -_half(b, 2),
    }
    return Affine(bits=4, group=Block(columns=32), scales=number, offsets=number, layout="panel"), arrays


def _q6_k(b: Blocks) -> tuple[Coding, Arrays]:
    low = b[..., :128].reshape(*b.shape[:-1], 2, 64)
    low = np.concatenate([low & 15, low >> 4], axis=-1)
    high = b[..., 128:192].reshape(*b.shape[:-1], 2, 1, 32)
    high = (high >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(low.shape)
    arrays = {
        "codes": _row((low | high << 4).astype(np.int8) - 32),
        "scales.codes": _row(np.ascontiguousarray(b[..., 192:208]).view(np.int8)),
        "scales.scales": _half(b, 208),
    }
    scales = Affine(bits=8, signed=True, group=Block(columns=16), scales=F16)
    return Affine(bits=6, signed=True, group=Block(columns=16), scales=scales, layout="panel"), arrays


def _iq4_nl(b: Blocks) -> tuple[Coding, Arrays]:
    coding = Lookup(bits=4, table="iq4_nl", group=Block(columns=32), scales=F16, layout="panel")
    return coding, {"codes": _row(_nibbles(b[..., 2:])), "scales": _half(b, 0)}


def _mxfp4(b: Blocks) -> tuple[Coding, Arrays]:
    # ggml doubles the table and halves the scale: the same weights, for exponents that e8m0 and float32 both have
    scales = np.ascontiguousarray(b[..., 0]).view(ml_dtypes.float8_e8m0fnu)
    coding = Lookup(bits=4, table="e2m1", group=Block(columns=32), scales=Dense(dtype="float8_e8m0fnu"))
    return coding, {"codes": _row(_nibbles(b[..., 1:])), "scales": scales}


# name in gguf: (weights of a block, bytes, where its float16 numbers are, how it is read)
GGUF: dict[str, tuple[int, int, tuple[int, ...], Callable[[Blocks], tuple[Coding, Arrays]]]] = {
    "Q4_0": (32, 18, (0,), _q4_0),
    "Q4_1": (32, 20, (0, 2), _q4_1),
    "Q5_1": (32, 24, (0, 2), _q5_1),
    "Q8_0": (32, 34, (0,), _q8_0),
    "Q2_K": (256, 84, (80, 82), _q2_k),
    "Q3_K": (256, 110, (108,), _q3_k),
    "Q4_K": (256, 144, (0, 2), _q4_k),
    "Q6_K": (256, 210, (208,), _q6_k),
    "IQ4_NL": (32, 18, (0,), _iq4_nl),
    "MXFP4": (32, 17, (), _mxfp4),
}


@pytest.mark.parametrize("kind", GGUF)
def test_gguf_blocks(kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    weights, size, halves, read = GGUF[kind]
    rng = np.random.default_rng(list(kind.encode()))
    blocks = rng.integers(0, 256, (ROWS, 3, size)).astype(np.uint8)
    for at in halves:
        numbers = rng.standard_normal((ROWS, 3, 1)).astype(np.float16)
        blocks[..., at : at + 2] = numbers.view(np.uint8)
    if kind == "MXFP4":
        blocks[..., 0] = rng.integers(100, 150, (ROWS, 3))
    coding, arrays = read(blocks)
    shape = (ROWS, 3 * weights)
    found = codings.decode(coding, shape, codings.unpack(coding, shape, codings.pack(coding, shape, arrays)))
    expected = gguf.quants.dequantize(blocks.reshape(ROWS, -1), gguf.GGMLQuantizationType[kind])
    assert np.array_equal(found, expected.reshape(shape))


def _iq2_xxs(b: Blocks) -> NDArray[Any]:
    return np.ascontiguousarray(b[..., 2:]).view("<u4")[..., 1::2] >> 28


def _iq3_s(b: Blocks) -> NDArray[Any]:
    return np.stack([b[..., -4:] & 15, b[..., -4:] >> 4], axis=-1)


def _iq1_s(b: Blocks) -> NDArray[Any]:
    return np.ascontiguousarray(b[..., 34:]).view("<u2") >> 12 & 7


# name in gguf: (bytes, bits of a scale, how those are read, entries); the scale is d · (code + 1/2)
GRIDS: dict[str, tuple[int, int, Callable[[Blocks], NDArray[Any]], list[float]]] = {
    "IQ2_XXS": (66, 4, _iq2_xxs, [2, 6.25, 10.75]),
    "IQ3_S": (110, 4, _iq3_s, [2, 6, 10, 14, 18, 22, 26, 30]),
    "IQ1_S": (50, 3, _iq1_s, [1.75, 2.25, 0.25]),
}


@pytest.mark.parametrize("kind", GRIDS)
def test_ggml_grids_are_tables(kind: str) -> None:
    """An entry of a grid is eight or four weights; each of them is one of a few numbers, with either sign."""
    gguf = pytest.importorskip("gguf")
    size, bits, read, entries = GRIDS[kind]
    rng = np.random.default_rng(list(kind.encode()))
    blocks = rng.integers(0, 256, (ROWS, 3, size)).astype(np.uint8)
    blocks[..., :2] = rng.uniform(0.5, 2, (ROWS, 3, 1)).astype(np.float16).view(np.uint8)
    expected = gguf.quants.dequantize(blocks.reshape(ROWS, -1), gguf.GGMLQuantizationType[kind])
    table = np.float32([*entries, *(-entry for entry in entries)])
    table = np.pad(np.sort(table), (0, 2 ** (len(table) - 1).bit_length() - len(table)), constant_values=np.inf)
    scales = Affine(bits=bits, group=Block(columns=8), scales=F16, zeros=F16)
    coding = Lookup(bits=len(table).bit_length() - 1, table="tensor", group=Block(columns=32), scales=scales)
    arrays = {
        "scales.codes": _row(read(blocks)).astype(np.uint8),
        "scales.scales": _half(blocks, 0),
        "scales.zeros": np.full((ROWS, 3), -0.5, np.float16),
    }
    each = np.repeat(codings.decode(scales, (ROWS, 24), {n[7:]: a for n, a in arrays.items()}), 32, axis=1)
    arrays["codes"] = np.searchsorted(table, expected.reshape(each.shape) / each - 1e-3).astype(np.uint8)
    arrays["table"] = np.where(np.isinf(table), 0, table)
    assert np.array_equal(codings.decode(coding, (ROWS, 768), arrays), expected.reshape(ROWS, 768))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_hqq_both_axes(axis: int, bits: int) -> None:
    torch = pytest.importorskip("torch")
    quantize = pytest.importorskip("hqq.core.quantize")
    weight = torch.randn(24, 32, generator=torch.Generator().manual_seed(bits))
    packed, meta = quantize.Quantizer.quantize(
        weight, nbits=bits, group_size=16, axis=axis, compute_dtype=torch.float32, device="cpu", optimize=False
    )
    expected = quantize.Quantizer.dequantize(packed, meta).numpy()
    codes = quantize.Quantizer.unpack[meta["packing"]](packed, dtype=torch.uint8).numpy().reshape(24, 32)
    number = Dense(dtype="float32")
    group = Flat(size=16) if axis else Comb(size=16)
    coding = Affine(bits=bits, group=group, scales=number, zeros=number)
    arrays = {name: meta[name[:-1]].float().numpy().reshape(1, -1) for name in ("scales", "zeros")}
    assert np.array_equal(codings.decode(coding, (24, 32), {**arrays, "codes": codes}), expected)


def test_eetq_and_aqlm_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    codes, scale = rng.integers(-128, 128, (6, 64)).astype(np.int8), rng.random((6, 1)).astype(np.float16)
    coding = Affine(bits=8, signed=True, group=Block(), scales=F16)
    found = codings.decode(coding, (6, 64), {"codes": codes, "scales": scale})
    assert np.array_equal(found, codes.astype(np.float32) * scale.astype(np.float32))

    stored = rng.integers(-128, 128, (6, 8, 2)).astype(np.int8)  # the file holds codes modulo 256, signed
    books = rng.standard_normal((2, 256, 1, 8)).astype(np.float16)
    aqlm = codings.Additive(books=2, bits=8, in_group=8, scales=F16)
    arrays = {"codes": stored.view(np.uint8), "codebooks": books, "scales": scale}
    wide = books.astype(np.float32)
    total = wide[0, stored[..., 0].view(np.uint8), 0] + wide[1, stored[..., 1].view(np.uint8), 0]
    assert np.array_equal(codings.decode(aqlm, (6, 64), arrays), scale.astype(np.float32) * total.reshape(6, 64))
