"""What holds for every method: the contract of coded slabs, the edge cases, and options."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat import linear, schemes
from qformat.converters.methods import METHODS, Coded, join, native, quantize
from qformat.errors import RecipeError, SourceError
from tests.converters.methods.weights import like_a_model, matrices, real, sample

NAMES = list(METHODS)
AFFINE = ["rtn", "ls", "hqq", "sinq", "tail"]
WIDTHS = [8, 6, 5, 4, 3, 2, 1]


def decode(coded: Coded, shape: tuple[int, int]) -> np.ndarray:
    linear.check(coded.scheme, shape, coded.arrays, coded.parameters)
    return linear.decode(coded.scheme, shape, coded.arrays, parameters=coded.parameters)


@st.composite
def choices(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    """A method and some of its options."""
    name = draw(st.sampled_from(NAMES))
    options: dict[str, object] = {}
    if name in AFFINE:
        options["bits"] = draw(st.integers(1, 8))
        options["group_size"] = draw(st.sampled_from([None, 16, 17, 32, 64, 100, 128]))
        if name != "hqq":
            options["symmetric"] = draw(st.booleans())
    if name in ("nf4", "fp4"):
        options = {"double_quant": draw(st.booleans()), "group_size": draw(st.sampled_from([32, 64, 256]))}
    return name, options


# -- the contract ------------------------------------------------------------------------------------------------------


@given(choice=choices(), weight=matrices())
def test_arrays_fit_the_scheme_and_errors_are_those_of_decoding(
    choice: tuple[str, dict[str, object]], weight: np.ndarray
) -> None:
    name, options = choice
    weight = np.clip(weight, -3e4, 3e4)
    coded = quantize(name, weight, **options)
    schemes.validate(coded.scheme)
    difference = weight.astype(np.float64) - decode(coded, weight.shape)
    assert math.isclose(coded.squared_error, np.sum(difference**2), rel_tol=1e-9, abs_tol=1e-300)
    assert math.isclose(coded.squared_norm, np.sum(weight.astype(np.float64) ** 2), rel_tol=1e-9, abs_tol=1e-300)
    assert coded.max_error == np.abs(difference).max()
    packed = linear.pack(coded.scheme, weight.shape, coded.arrays, coded.parameters)
    assert packed.size == linear.layout(coded.scheme, weight.shape, coded.parameters).length


@given(choice=choices(), weight=matrices())
def test_the_scheme_is_known_from_headers(choice: tuple[str, dict[str, object]], weight: np.ndarray) -> None:
    name, given_options = choice
    method = METHODS[name]
    options = method.resolve(given_options)
    state = method.combine([method.survey(weight, options, 0, weight.shape)])
    settled = method.settle(options, state)
    coded = method.quantize(np.clip(weight, -3e4, 3e4), options)
    if settled.get("scale_dtype") != "float32":
        assert coded.scheme in (
            method.scheme(options, weight.shape, "float16"),
            method.scheme({**options, "scale_dtype": "float32"}, weight.shape, "float16"),
        )
    assert coded.parameters == method.count(options, weight.shape, state) or name == "tail"


@given(choice=choices(), seed=st.integers(0, 1000), rows=st.integers(1, 70), columns=st.sampled_from([16, 40, 64, 256]))
def test_slabs_are_the_whole(choice: tuple[str, dict[str, object]], seed: int, rows: int, columns: int) -> None:
    name, given_options = choice
    weight = like_a_model(rows, columns, seed)
    method = METHODS[name]
    options = method.resolve(given_options)
    step = method.granularity(options, weight.shape)
    starts = range(0, rows, step)
    state = None
    if method.two_pass(options):
        states = [method.survey(weight[start : start + step], options, start, weight.shape) for start in starts]
        state = pickle.loads(pickle.dumps(method.combine(states)))
    parts = [method.quantize(weight[start : start + step], options, state, start) for start in starts]
    whole, joined = quantize(name, weight, **given_options), join(parts)
    assert joined.scheme == whole.scheme
    assert joined.parameters == whole.parameters
    if state is not None:
        assert joined.parameters == method.count(options, weight.shape, state)
    for role, array in whole.arrays.items():
        np.testing.assert_array_equal(joined.arrays[role], array, err_msg=role)
    np.testing.assert_array_equal(joined.errors, whole.errors)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(0, 0), (0, 64), (5, 0), (1, 1), (1, 64), (17, 1), (3, 173)])
def test_any_shape(name: str, shape: tuple[int, int]) -> None:
    coded = quantize(name, np.full(shape, 0.5, np.float32))
    assert decode(coded, shape).shape == shape
    assert coded.rows == shape[0]
    if 0 in shape:
        assert (coded.squared_error, coded.squared_norm, coded.max_error, coded.error) == (0, 0, 0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_any_float_type_and_memory_order(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    weight = like_a_model(16, 64).astype(ml_dtypes.bfloat16).astype(np.float32)
    expected = quantize(name, weight)
    for source in (weight.astype(ml_dtypes.bfloat16), weight.astype(np.float64), np.asfortranarray(weight)):
        found = quantize(name, source)
        assert all(np.array_equal(found.arrays[role], array) for role, array in expected.arrays.items())


def test_join_refuses_nothing_and_mixtures() -> None:
    with pytest.raises(RecipeError, match="share a scheme"):
        join([])
    with pytest.raises(RecipeError, match="share a scheme"):
        join([quantize("rtn", np.ones((16, 64))), quantize("ls", np.ones((16, 64)))])


# -- edge cases --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("name", AFFINE)
def test_zero_stays_zero(name: str, bits: int) -> None:
    for options in ({}, {"group_size": None}, *([{"symmetric": True}] if name != "hqq" else [])):
        coded = quantize(name, np.zeros((20, 100), np.float32), bits=bits, **options)
        decoded = decode(coded, (20, 100))
        assert not decoded.any()
        assert not np.signbit(decoded).any()
        assert coded.error == 0


@pytest.mark.parametrize("name", ["nf4", "fp4", "int8", "eetq"])
def test_zero_stays_zero_in_the_others(name: str) -> None:
    assert not decode(quantize(name, np.zeros((20, 128), np.float32)), (20, 128)).any()


@pytest.mark.parametrize("value", [0.1, -0.037, 1.0, -5.0, 6.1e-5])
@pytest.mark.parametrize("bits", WIDTHS)
def test_a_constant_group(bits: int, value: float) -> None:
    """Exact up to the stored numbers: 22 bits of scale and offset (ls), one float16 (hqq, rtn)."""
    weight = np.full((3, 64), value, np.float32)
    for name, bound in (("ls", 2.0**-20), ("sinq", 2.0**-9), ("hqq", 2.0**-11), ("rtn", 2.0**-10)):
        coded = quantize(name, weight, bits=bits)
        assert np.abs(decode(coded, weight.shape) - weight).max() <= bound * abs(value) + 2.0 ** (bits - 25), name


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_one_signed_groups_far_from_zero(bits: int, sign: int) -> None:
    """An offset costs nothing; rtn's integer zero must widen the range; hqq's float zero falls back to one value."""
    random = np.random.default_rng(0)
    weight = (sign * (5 + 0.01 * random.standard_normal((8, 64)))).astype(np.float32)
    spread = np.ptp(weight, axis=1).max()
    assert np.abs(decode(quantize("ls", weight, bits=bits), weight.shape) - weight).max() < spread
    assert np.abs(decode(quantize("hqq", weight, bits=bits), weight.shape) - weight).max() < 2 * spread + 5 * 2.0**-10
    assert np.abs(decode(quantize("rtn", weight, bits=bits), weight.shape) - weight).max() < 5.1 / (2**bits - 1)


@pytest.mark.parametrize("name", AFFINE)
def test_one_huge_weight(name: str) -> None:
    """It stays, and nothing becomes infinite."""
    weight = like_a_model(4, 128)
    weight[1, 70] = -3e4
    coded = quantize(name, weight, bits=4, group_size=64)
    decoded = decode(coded, weight.shape)
    assert np.isfinite(decoded).all()
    assert abs(decoded[1, 70] / -3e4 - 1) < 0.05
    if name != "sinq":  # which shares it out over the column
        assert np.abs(decoded - weight)[[0, 2, 3]].max() < 0.2


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("size", [1e-7, 1e5, 1e-20, 1e25])
def test_scales_that_float16_cannot_hold_are_float32(name: str, size: float) -> None:
    weight = (like_a_model(16, 128) / 0.02 * size).astype(np.float32)
    coded = quantize(name, weight)
    assert coded.scheme.coding.scales.dtype == "float32"
    assert coded.error < 0.2


def _scale_dtype(*largest: float, **options: object) -> str:
    """The scale type of rows with these largest magnitudes, of both signs."""
    weight = np.zeros((len(largest), 64), np.float32)
    weight[:, 0], weight[:, 1] = largest, [-value for value in largest]
    return str(quantize("rtn", weight, **options).scheme.coding.scales.dtype)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_where_float16_ends_for_small_scales(bits: int) -> None:
    least = 2.0 ** (bits - 1 - 21)  # of which the scale is 2^-21
    below = float(np.nextafter(np.float32(least), np.float32(0)))
    assert _scale_dtype(least, least, bits=bits, symmetric=True) == "float16"
    assert _scale_dtype(below, below, bits=bits, symmetric=True) == "float32"
    assert _scale_dtype(below, 1024 * below, bits=bits, symmetric=True) == "float32"
    assert _scale_dtype(below, 1025 * below, bits=bits, symmetric=True) == "float16"  # negligible beside the other


def test_where_float16_ends_for_large_scales() -> None:
    """At one bit an asymmetric scale is the whole range."""
    assert _scale_dtype(32752.0, bits=1) == "float16"  # 2 · 32752 is the largest float16
    assert _scale_dtype(32753.0, bits=1) == "float32"


@pytest.mark.parametrize("name", AFFINE)
def test_a_dead_row_does_not_cost_the_tensor_its_float16(name: str) -> None:
    weight = like_a_model(16, 128)
    weight[3] *= 1e-12
    coded = quantize(name, weight)
    assert coded.scheme.coding.scales.dtype == "float16"
    assert np.abs(decode(coded, weight.shape)[3] - weight[3]).max() <= np.abs(weight[3]).max() * 1.01


def test_a_scale_type_that_was_asked_for_and_overflows_is_an_error() -> None:
    with pytest.raises(SourceError, match="overflows"):
        quantize("rtn", np.full((2, 64), 1e8, np.float32), bits=2, scale_dtype="float16")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e31])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_a_number_is_refused_by_its_index(name: str, bad: float) -> None:
    weight = like_a_model(20, 64)
    weight[17, 3] = bad
    with pytest.raises(SourceError, match=r"\[17, 3\]"):
        quantize(name, weight)
    method = METHODS[name]
    with pytest.raises(SourceError, match=r"\[117, 3\]"):
        method.survey(weight, method.resolve({}), 100, (200, 64))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_a_number_can_be_replaced(name: str) -> None:
    weight = like_a_model(20, 64)
    weight[17, 3], weight[2, 5], weight[4, 4] = np.nan, np.inf, -np.inf
    clean = weight.copy()
    clean[17, 3] = clean[2, 5] = clean[4, 4] = 0
    zero, expected = quantize(name, weight, nonfinite="zero"), quantize(name, clean)
    assert all(np.array_equal(zero.arrays[role], array) for role, array in expected.arrays.items())
    clean[2, 5], clean[4, 4] = np.abs(clean[2]).max(), -np.abs(clean[4]).max()
    clamp, expected = quantize(name, weight, nonfinite="clamp"), quantize(name, clean)
    assert all(np.array_equal(clamp.arrays[role], array) for role, array in expected.arrays.items())


# -- quality -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", WIDTHS)
def test_ls_has_the_lowest_error_of_all_at_equal_bits(bits: int) -> None:
    for weight in (real(64), sample(256), sample(768), like_a_model(64, 512)):
        for group in (32, 64, 128, None):
            best = quantize("ls", weight, bits=bits, group_size=group)
            for other in ("rtn", "hqq"):
                assert best.error < quantize(other, weight, bits=bits, group_size=group).error
            symmetric = quantize("ls", weight, bits=bits, group_size=group, symmetric=True)
            assert symmetric.error < quantize("rtn", weight, bits=bits, group_size=group, symmetric=True).error


def test_ls_beats_the_lookup_tables_at_their_size() -> None:
    """4.5 bits a weight: codes and two float16 in groups of 64, against codes and one float32."""
    for weight in (real(64), sample(256), like_a_model(64, 512)):
        best = quantize("ls", weight, bits=4, group_size=64).error
        assert best < quantize("nf4", weight).error < quantize("fp4", weight).error


def test_the_tail_and_dual_scaling_help_where_they_should() -> None:
    weight = like_a_model(256, 512, seed=3)  # outlying inputs and rows
    plain = quantize("ls", weight, bits=3)
    assert quantize("tail", weight, bits=3, fraction=0.01).error < 0.9 * plain.error
    assert quantize("sinq", weight, bits=3).error < plain.error


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.01, 0.3])
def test_the_tail_is_as_large_as_asked(fraction: float) -> None:
    weight = sample(256)
    coded = quantize("tail", weight, fraction=fraction)
    (number,) = coded.parameters
    assert number <= fraction * weight.size
    assert number >= 0.9 * fraction * weight.size
    rows = np.repeat(np.arange(len(weight)), np.diff(coded.arrays["corrections.0.row_pointers"].astype(np.int64)))
    outlying = np.zeros(weight.shape, bool)
    outlying[rows, coded.arrays["corrections.0.columns"]] = True
    if number > 0:
        assert np.abs(weight[outlying]).min() > np.abs(weight[~outlying]).max()


def test_scaling_a_tensor_by_a_power_of_two_changes_scales_only() -> None:
    """No method has a constant in units of the weight (the original hqq has two)."""
    weight = like_a_model(16, 128)
    for name in NAMES:
        plain, double = quantize(name, weight), quantize(name, weight * np.float32(4))
        np.testing.assert_array_equal(plain.arrays["codes"], double.arrays["codes"], err_msg=name)


# -- options and choices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("rtn", {"bits": 9}, "bits"), ("rtn", {"bits": True}, "bits"), ("rtn", {"group_size": 0}, "group_size"),
        ("rtn", {"group_size": 64.0}, "group_size"), ("rtn", {"colour": 1}, "colour"), ("eetq", {"bits": 4}, "bits"),
        ("hqq", {"symmetric": True}, "symmetric"), ("hqq", {"lp": 0}, "lp"), ("hqq", {"iterations": 0}, "iterations"),
        ("nf4", {"group_size": 96}, "group_size"), ("tail", {"fraction": 0.9}, "fraction"),
        ("ls", {"symmetric": 1}, "symmetric"), ("ls", {"scale_dtype": "int8"}, "scale_dtype"),
        ("ls", {"nonfinite": "keep"}, "nonfinite"), ("int8", {"threshold": -1}, "threshold"),
    ],
)  # fmt: skip
def test_options_are_checked(name: str, options: dict[str, object], field: str) -> None:
    with pytest.raises(RecipeError) as caught:
        quantize(name, np.ones((2, 64), np.float32), **options)
    assert caught.value.field == field


def test_an_unknown_method() -> None:
    with pytest.raises(RecipeError, match="unknown method"):
        quantize("magic", np.ones((1, 1)))
    with pytest.raises(SourceError, match="matrix"):
        quantize("rtn", np.ones(3))


def test_panels_wherever_they_are_legal() -> None:
    for name in NAMES:
        assert quantize(name, np.ones((4, 128), np.float32)).scheme.coding.layout == "panel"
    assert quantize("ls", np.ones((4, 100), np.float32), group_size=24).scheme.coding.layout == "plain"
    assert quantize("nf4", np.ones((4, 100), np.float32)).scheme.coding.layout == "plain"


def test_kernels_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from qformat.errors import KernelError

    try:
        for name in native.available():
            monkeypatch.setenv("QFORMAT_KERNEL", name)
            native.select(None)
            assert native.active() == name
        monkeypatch.setenv("QFORMAT_KERNEL", "abacus")
        with pytest.raises(KernelError, match="no such kernel"):
            native.select(None)
    finally:
        monkeypatch.undo()
        native.select(None)
    with pytest.raises(KernelError, match="negative"):
        native.set_threads(-1)
