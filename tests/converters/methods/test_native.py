"""Every native loop gives the bits of its numpy twin, on every instruction set and any number of threads."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat import linear
from qformat.codings import bits as bit
from qformat.codings import panel, tables
from qformat.codings.parts import Role
from qformat.converters.methods import (
    METHODS,
    affine,
    base,
    floats,
    fused,
    hqq,
    lanes,
    lookup,
    ls,
    native,
    packing,
    quantize,
    rows,
    rtn,
)
from qformat.converters.methods.bindings import Bindings
from qformat.converters.methods.floats import to_float32
from qformat.dtypes import numpy_dtype
from qformat.errors import SourceError
from tests.converters.methods.weights import matrices

NATIVE = [name for name in native.available() if name != "reference"]


def test_the_extension_is_built() -> None:
    assert "generic" in NATIVE


GROUPS = st.sampled_from([1, 3, 16, 17, 32, 48, 64, 100, 128, 1000])
BITS = st.integers(1, 8)
DTYPES = st.sampled_from(["float16", "float32"])


def fitting(weight: np.ndarray, dtype: str) -> np.ndarray:
    """Weights whose scales do not overflow the type: what does is refused, so its codes do not matter."""
    return np.clip(weight, -3e4, 3e4) if dtype == "float16" else weight


def as_tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def same(name: str, twin: Any, *arguments: Any) -> None:
    """The twin's result from every instruction set, on one thread and on three."""
    expected = as_tuple(twin(*arguments))
    for isa in NATIVE:
        native.select(isa)
        extension: Any = native._extension()
        for threads in (1, 3):
            found = as_tuple(getattr(Bindings(extension), name)(*arguments, threads=threads))
            for want, got in zip(expected, found, strict=True):
                want, got = np.asarray(want), np.asarray(got)
                assert (want.shape, want.dtype) == (got.shape, got.dtype)
                assert want.tobytes() == got.tobytes(), (name, isa, threads, want, got)
    native.select(None)


@given(weight=matrices(), group=GROUPS, bits=BITS, dtype=DTYPES)
def test_rtn(weight: np.ndarray, group: int, bits: int, dtype: str) -> None:
    weight, group = fitting(weight, dtype), min(group, weight.shape[1])
    same("rtn_symmetric", rtn.symmetric_loop, weight, group, bits, dtype)
    same("rtn_asymmetric", rtn.asymmetric_loop, weight, group, bits, dtype)


@given(weight=matrices(), group=GROUPS, bits=BITS, dtype=DTYPES, symmetric=st.booleans())
def test_ls(weight: np.ndarray, group: int, bits: int, dtype: str, symmetric: bool) -> None:
    same("ls", ls.ls_loop, fitting(weight, dtype), min(group, weight.shape[1]), bits, symmetric, dtype)


@given(
    weight=matrices(), group=GROUPS, bits=BITS, dtype=DTYPES, lp=st.sampled_from([0.7, 1.0, 0.3]),
    beta=st.sampled_from([10.0, 1.0, 100.0]), iterations=st.sampled_from([20, 1, 5]),
)  # fmt: skip
def test_hqq(weight: np.ndarray, group: int, bits: int, dtype: str, lp: float, beta: float, iterations: int) -> None:
    weight, group = fitting(weight, dtype), min(group, weight.shape[1])
    same("hqq", hqq.hqq_loop, weight, group, bits, dtype, lp, beta, 1.01, iterations)


@given(weight=matrices(), group=GROUPS, limit=st.sampled_from([0.0, 1e-6, 0.05, 1e9]))
def test_extremes(weight: np.ndarray, group: int, limit: float) -> None:
    same("largest", base.largest_loop, weight)
    same("extremes", affine.extremes_loop, weight, min(group, weight.shape[1]), limit)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_sixteen_bit_float(dtype: str) -> None:
    values = np.arange(2**16, dtype=np.uint16)[3:].view(numpy_dtype(dtype))
    expected = values.astype(np.float32)
    same("largest_bits", floats.largest_bits_loop, values[:1000].view(np.uint16))
    for name in native.available():
        native.select(name)
        found = to_float32(values)
        np.testing.assert_array_equal(found, expected)  # NaN where there is NaN
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
        if dtype == "float16":
            some = np.isfinite(expected)
            narrow = affine.narrow("number", expected[some][None], dtype)
            np.testing.assert_array_equal(narrow.view(np.uint16)[0], values[some].view(np.uint16))
    native.select(None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -np.nan])
def test_largest_of_what_is_not_finite(bad: float) -> None:
    for size, at in ((1, 0), (40, 3), (40, 39)):
        weight = np.ones((1, size), np.float32)
        weight[0, at] = bad
        same("largest", base.largest_loop, weight)


@given(weight=matrices(), block=st.sampled_from([32, 64, 128]), name=st.sampled_from(["nf4", "fp4"]))
def test_lookup(weight: np.ndarray, block: int, name: str) -> None:
    table = tables.values(name)
    arguments = (lookup.thresholds(table), table, lookup.sorted_codes(table))
    same("lookup", lookup.lookup_loop, weight, block, *arguments)
    codes, scales = lookup.lookup_loop(weight, block, *arguments)
    same("measure_lookup", lookup.measure_loop, weight, block, table, codes, scales)


@given(weight=matrices(), eetq=st.booleans(), dtype=DTYPES)
def test_scaled_rows(weight: np.ndarray, eetq: bool, dtype: str) -> None:
    weight = fitting(weight, dtype)
    same("scaled_rows", rows.rows_loop, np.clip(weight, -6e4, 6e4), eetq, dtype)


@given(weight=matrices())
def test_measure(weight: np.ndarray) -> None:
    same("measure", lanes.measure_matrix, weight, weight * np.float32(0.99))


@pytest.mark.parametrize("name", list(METHODS))
@given(weight=matrices(), data=st.data())
def test_one_pass_over_a_slab(name: str, weight: np.ndarray, data: st.DataObject) -> None:
    """The pass gives what looking, coding and packing give one after the other, or leaves the slab to them."""
    method, dtype = METHODS[name], data.draw(st.sampled_from(["bfloat16", "float16", "float32"]))
    with np.errstate(over="ignore"):
        raw = np.tile(weight, (data.draw(st.integers(1, 5)), 1)).astype(numpy_dtype(dtype))
    if data.draw(st.booleans()):
        raw[-1, -1] = data.draw(st.sampled_from([np.inf, np.nan, -np.inf]))
    given = {
        "bits": data.draw(BITS), "group_size": data.draw(st.sampled_from([16, 32, 64, 128, None])),
        "scale_dtype": data.draw(DTYPES), "symmetric": data.draw(st.booleans()),
    }  # fmt: skip
    options = method.resolve({k: v for k, v in given.items() if k in method.options and method.options[k].accepts(v)})
    scheme = method.scheme(options, raw.shape, dtype)
    wide = to_float32(raw)
    try:
        with np.errstate(over="ignore"):
            coded = method.quantize(wide, options)
    except SourceError:
        coded = None
    for isa in NATIVE:
        native.select(isa)
        for threads in (1, 3):
            native.set_threads(threads)
            done = fused.code(method, options, scheme, raw)
            if done is None:
                assert coded is None or fused.plan(method, options, scheme, raw) is None
                continue
            assert coded is not None
            expected = linear.pack(coded.scheme, raw.shape, coded.arrays, coded.parameters)
            np.testing.assert_array_equal(done.panels, expected)
            assert done.errors.tobytes() == coded.errors.tobytes()
            if "scale_dtype" in options:
                assert done.state == affine.look(wide, {**options, "scale_dtype": "auto"}, 0, raw.shape)
    native.set_threads(0)
    native.select(None)


def on_every_build(expected: np.ndarray, pack: Any) -> None:
    """`pack()` gives the expected bytes whatever is selected."""
    for isa in native.available():
        native.select(isa)
        for threads in (1, 3):
            native.set_threads(threads)
            np.testing.assert_array_equal(pack(), expected)
    native.set_threads(0)
    native.select(None)


@given(st.data())
def test_panels(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    bits, signed = data.draw(BITS), data.draw(st.booleans())
    shape = (data.draw(st.integers(1, 40)), data.draw(st.integers(1, 200)))
    group = data.draw(st.sampled_from([16, 32, 48, 64, 128, 144, shape[1]]))
    low = -(2 ** (bits - 1)) if signed else 0
    codes = random.integers(low, low + 2**bits, shape).astype(np.int8 if signed else np.uint8)
    beside_shape = (shape[0], -(-shape[1] // group))
    zero_bits = data.draw(BITS)
    arrays = {
        "codes": codes,
        "scales": random.standard_normal(beside_shape).astype(data.draw(DTYPES)),
        "zeros.codes": random.integers(0, 2**zero_bits, beside_shape).astype(np.uint8),
    }
    code = Role(str(codes.dtype), shape, bits, signed)
    beside = {
        "scales": Role(str(arrays["scales"].dtype), beside_shape),
        "zeros.codes": Role("uint8", beside_shape, zero_bits),
    }
    geometry = panel.Panels(shape, group, "codes", code, beside)

    def pack() -> np.ndarray:
        out = np.full(geometry.nbytes, 0xA5, np.uint8)  # every byte is written, padding included
        packing.pack_panels(geometry, arrays, out)
        return out

    on_every_build(panel.pack(geometry, arrays), pack)


@given(st.data())
def test_streams(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    bits, signed, count = data.draw(BITS), data.draw(st.booleans()), data.draw(st.integers(0, 300))
    low = -(2 ** (bits - 1)) if signed else 0
    codes = random.integers(low, low + 2**bits, count).astype(np.int8 if signed else np.uint8)
    role = Role(str(codes.dtype), codes.shape, bits, signed)
    on_every_build(bit.pack_stream(codes.astype(np.int16) - low, bits), lambda: packing.stream(codes, role))


@pytest.mark.parametrize("name", list(METHODS))
@given(weight=matrices())
def test_extents(name: str, weight: np.ndarray) -> None:
    coded = quantize(name, np.clip(weight, -3e4, 3e4))
    expected = linear.pack(coded.scheme, weight.shape, coded.arrays, coded.parameters)
    on_every_build(expected, lambda: packing.pack(coded.scheme, weight.shape, coded.arrays, coded.parameters))


def test_a_system_that_gives_no_threads() -> None:
    """The parts that a thread was meant for are done by the one that asks."""
    code = """
import resource
import numpy as np
from qformat.converters.methods import native, quantize
weight = np.random.default_rng(0).standard_normal((4096, 64)).astype(np.float32)
native.set_threads(1)
alone = quantize("ls", weight, bits=4).arrays["codes"].tobytes()
with open("/proc/self/statm") as sizes:
    used = int(sizes.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))  # room for a few stacks
native.set_threads(200)
print(quantize("ls", weight, bits=4).arrays["codes"].tobytes() == alone)
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "True\n"
