"""Against the original packages: bitsandbytes' numbers bit for bit, the errors of hqq and gguf-py at least matched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat import linear
from qformat.codings import tables
from qformat.converters.methods import lookup, quantize
from tests.converters.methods.weights import like_a_model, matrices, real, sample

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def bnb() -> Any:
    return pytest.importorskip("bitsandbytes").functional


def unpacked(packed: Any, count: int) -> np.ndarray:
    """bitsandbytes keeps the earlier code in the high half of a byte."""
    flat = packed.reshape(-1).numpy()
    return np.stack([flat >> 4, flat & 15], axis=1).reshape(-1)[:count]


SHAPES = [(64, 64), (5, 172), (7, 129), (1, 1), (3, 64), (2, 4096), (33, 100), (300, 256)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_lookup_is_bitsandbytes(bnb: Any, name: str, block: int, dtype: str) -> None:
    for number, shape in enumerate(SHAPES):
        source = torch.from_numpy(like_a_model(*shape, seed=number)).to(getattr(torch, dtype))
        source[0, : shape[1] // 2] = 0  # exact zeros, and blocks of them
        packed, state = bnb.quantize_4bit(source, blocksize=block, quant_type=name)
        ours = quantize(name, source.float().numpy(), group_size=block)
        np.testing.assert_array_equal(ours.arrays["codes"].reshape(-1), unpacked(packed, source.numel()))
        np.testing.assert_array_equal(ours.arrays["scales"].reshape(-1), state.absmax.numpy())
        # the oracle is table × absmax: bitsandbytes' own CPU decoder is wrong where blocks cross rows
        spread = np.repeat(state.absmax.numpy(), block)[: source.numel()]
        decoded = (tables.values(name)[ours.arrays["codes"].reshape(-1)] * spread).reshape(shape)
        np.testing.assert_array_equal(linear.decode(ours.scheme, shape, ours.arrays), decoded)


@given(weight=matrices(), name=st.sampled_from(["nf4", "fp4"]))
def test_lookup_is_bitsandbytes_for_strange_weights(bnb: Any, weight: np.ndarray, name: str) -> None:
    packed, state = bnb.quantize_4bit(torch.from_numpy(weight), blocksize=64, quant_type=name)
    ours = quantize(name, weight)
    np.testing.assert_array_equal(ours.arrays["codes"].reshape(-1), unpacked(packed, weight.size))
    np.testing.assert_array_equal(ours.arrays["scales"].reshape(-1), state.absmax.numpy())


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_double_quantization_is_bitsandbytes(bnb: Any, name: str) -> None:
    for number, shape in enumerate([(64, 64), (300, 256), (1, 64), (37, 172), (512, 1024)]):
        weight = like_a_model(*shape, seed=number)
        packed, state = bnb.quantize_4bit(torch.from_numpy(weight), quant_type=name, compress_statistics=True)
        ours = quantize(name, weight, double_quant=True)
        np.testing.assert_array_equal(ours.arrays["codes"].reshape(-1), unpacked(packed, weight.size))
        offset = np.float32(state.offset.item())
        assert abs(ours.arrays["scales.offset"].item() - offset) <= np.spacing(offset)
        largest = quantize(name, weight).arrays["scales"].reshape(-1)
        nested = lookup.nest(largest, float(offset))  # with their offset
        np.testing.assert_array_equal(nested["codes"], state.absmax.numpy())
        np.testing.assert_array_equal(nested["scales"], state.state2.absmax.numpy())


def test_nested_codes_are_those_of_the_grid(bnb: Any) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, 256 * 2000).astype(np.float32)
    codes, state = bnb.quantize_blockwise(torch.from_numpy(values), blocksize=256)
    nested = lookup.nest(values, 0.0)
    np.testing.assert_array_equal(nested["codes"], codes.numpy())
    np.testing.assert_array_equal(nested["scales"], state.absmax.numpy())


def test_int8_is_bitsandbytes(bnb: Any) -> None:
    for number, shape in enumerate(SHAPES):
        weight = like_a_model(*shape, seed=number)
        codes, scb, _ = bnb.int8_vectorwise_quant(torch.from_numpy(weight).half())
        ours = quantize("int8", weight)
        np.testing.assert_array_equal(ours.arrays["codes"], codes.numpy())
        np.testing.assert_array_equal(ours.arrays["scales"][:, 0], scb.numpy() * np.float32(1 / 127))
        back = (ours.arrays["scales"][:, 0] * 127).astype(np.float16)
        np.testing.assert_array_equal(back.astype(np.float32), scb.numpy())


@given(weight=matrices())
def test_eetq_is_its_closed_form(weight: np.ndarray) -> None:
    """Per row max|w|/128 in float32, round half away from zero, clip; the scale is stored as float16."""
    weight = np.clip(weight, -3e4, 3e4)
    ours = quantize("eetq", weight, scale_dtype="float16")
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(128)
    some = scale[:, 0] >= 2.0**-120
    exact = weight[some].astype(np.float64) / scale[some]  # ties must be ties of float32
    rounded = (weight[some] / scale[some]).astype(np.float64)
    codes = np.clip(np.copysign(np.floor(np.abs(rounded) + 0.5), exact), -128, 127)
    np.testing.assert_array_equal(ours.arrays["codes"][some], codes)
    np.testing.assert_array_equal(ours.arrays["scales"][some], scale[some].astype(np.float16))


def hqq_package(weight: np.ndarray, bits: int, group: int) -> np.ndarray:
    """What the hqq package makes of a matrix with its own defaults and float16 scales and zeros, as float32."""
    quantizer = pytest.importorskip("hqq.core.quantize").Quantizer
    codes, meta = quantizer.quantize(
        torch.from_numpy(weight), nbits=bits, group_size=group, axis=1, optimize=True, round_zero=bits == 4,
        compute_dtype=torch.float16, device="cpu",
    )  # fmt: skip
    levels = quantizer.unpack[meta["packing"]](codes)[: weight.size // group].float()  # 3 bits are padded
    # decoded in float32, which is kinder to it than its own float16
    decoded = (levels - meta["zero"].float().reshape(-1, 1)) * meta["scale"].float().reshape(-1, 1)
    return decoded.reshape(weight.shape).numpy()


def relative_error(weight: np.ndarray, decoded: np.ndarray) -> float:
    return float(np.linalg.norm(weight.astype(np.float64) - decoded) / np.linalg.norm(weight.astype(np.float64)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("group", [64, 32])
@pytest.mark.parametrize("bits", [8, 6, 5, 4, 3, 2, 1])
def test_hqq_and_ls_beat_the_hqq_package_on_real_weights(bits: int, group: int) -> None:
    """Equal storage: codes of the same width, one float16 scale and one float16 zero or offset for as many weights."""
    weights = {
        "stories260K": real(64),
        "sample": sample(256),
        "sample, down": sample(768),
        "random": like_a_model(64, 512),
    }
    for name, weight in weights.items():
        original = relative_error(weight, hqq_package(weight, bits, group))
        ours = quantize("hqq", weight, bits=bits, group_size=group)
        best = quantize("ls", weight, bits=bits, group_size=group)
        assert ours.scheme.coding.scales == best.scheme.coding.scales
        assert ours.error <= original, name
        assert best.error < min(original, ours.error), name


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0"])
def test_rtn_and_ls_against_gguf(name: str) -> None:
    """At the same 4.5 and 8.5 bits a weight: codes found against the stored scale are no worse, and ls is better."""
    gguf = pytest.importorskip("gguf")
    kind = getattr(gguf.GGMLQuantizationType, name)
    for weight in (real(64), sample(256), like_a_model(64, 512)):
        original = gguf.dequantize(gguf.quantize(weight, kind), kind)
        bits = 4 if name == "Q4_0" else 8
        plain = quantize("rtn", weight, bits=bits, group_size=32, symmetric=True)
        best = quantize("ls", weight, bits=bits, group_size=32, symmetric=True)
        assert plain.error <= 1.001 * relative_error(weight, original)
        assert best.error < relative_error(weight, original)
