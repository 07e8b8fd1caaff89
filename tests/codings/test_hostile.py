"""Numbers that break the format's meaning (bits, groups, indices, scales): a typed error that names the role."""

from __future__ import annotations

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from qformat import codings, linear, schemes
from qformat.dtypes import numpy_dtype
from qformat.errors import InvalidFileError, LimitError, QFormatError, UnsupportedError
from qformat.schemes import Scheme

SHAPE = (6, 32)
FLOAT = {"coding": "dense", "dtype": "float16"}


def _scheme(coding: dict[str, Any], **rest: Any) -> Scheme:
    return schemes.parse({"coding": coding, **rest})


def _affine(**rest: Any) -> dict[str, Any]:
    return {
        "coding": "affine",
        "bits": 4,
        "group": {"group": "block", "rows": 1, "columns": 8},
        "scales": FLOAT,
        **rest,
    }


def _arrays(scheme: Scheme, parameters: tuple[int, ...] = (), **given: Any) -> dict[str, NDArray[Any]]:
    """Zeros for every role but those that are given (dots as double underscores)."""
    arrays = {
        name: np.zeros(role.shape, numpy_dtype(role.dtype))
        for name, role in linear.roles(scheme, SHAPE, parameters).items()
    }
    for name, values in given.items():
        role = name.replace("__", ".")
        arrays[role][...] = np.array(values).astype(arrays[role].dtype)
    return arrays


def _refused(scheme: Scheme, field: str, parameters: tuple[int, ...] = (), **given: Any) -> InvalidFileError:
    with pytest.raises(InvalidFileError) as caught:
        linear.check(scheme, SHAPE, _arrays(scheme, parameters, **given), parameters)
    assert caught.value.field == field
    return caught.value


# -- the grammar -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 9, 255, -1, 2**63, True, 4.0, "4", None])
def test_bits_out_of_range(bits: object) -> None:
    for coding in (_affine(bits=bits), {"coding": "lookup", "bits": bits, "table": "tensor"}):
        with pytest.raises(InvalidFileError):
            _scheme(coding)


@pytest.mark.parametrize("size", [0, -1, 2**48, 2**63, "64", 1.5])
@pytest.mark.parametrize(("kind", "name"), [("flat", "size"), ("comb", "size"), ("map", "count"), ("block", "columns")])
def test_group_sizes_out_of_range(size: object, kind: str, name: str) -> None:
    with pytest.raises(InvalidFileError):
        _scheme(_affine(group={"group": kind, name: size}))


def test_a_group_may_be_larger_than_the_row_but_a_comb_must_divide() -> None:
    assert linear.layout(_scheme(_affine(group={"group": "block", "columns": 2**31})), SHAPE).length > 0
    with pytest.raises(InvalidFileError, match="divide"):
        linear.layout(_scheme(_affine(group={"group": "comb", "size": 7})), SHAPE)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("coding", {"coding": {"coding": "wavelet"}}),
        ("coding", {"coding": _affine(scales={"coding": "quaternion"})}),
        ("function", {"coding": {"coding": "trellis", "bits": 2, "function": "3mad"}}),
        ("order", {"coding": {"coding": "trellis", "bits": 2, "function": "mcg", "order": "columns"}}),
        ("group", {"coding": _affine(group={"group": "spiral"})}),
        ("layout", {"coding": _affine(layout="panel9")}),
        ("table", {"coding": {"coding": "lookup", "bits": 4, "table": "nf5"}}),
        ("transform", {"coding": FLOAT, "transforms": [{"transform": "givens"}]}),
        ("correction", {"coding": FLOAT, "corrections": [{"correction": "magic"}]}),
        ("dtype", {"coding": {"coding": "dense", "dtype": "float12"}}),
    ],
)
def test_names_of_a_later_version_are_unsupported_by_name(name: str, document: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=f"unknown {name}") as caught:
        schemes.parse(document)
    assert caught.value.field is not None
    assert caught.value.field.endswith(name)


@pytest.mark.parametrize(
    "document",
    [
        None, [], "affine", 3, {}, {"coding": None}, {"coding": []}, {"coding": {}}, {"coding": FLOAT, "extra": 1},
        {"coding": {**FLOAT, "bits": 4}}, {"coding": FLOAT, "transforms": {}}, {"coding": FLOAT, "transposed": 1},
        {"coding": _affine(zeros=FLOAT, offsets=FLOAT)},
        {"coding": _affine(layout="panel")},
        {"coding": _affine(layout="panel", scales=None, group={"group": "block", "columns": 16})},
        {"coding": _affine(layout="panel", group={"group": "flat", "size": 16})},
        {"coding": _affine(scales={"coding": "affine", "bits": 4, "layout": "panel"})},
        {"coding": _affine(scales={"coding": "additive", "books": 1, "bits": 8, "in_group": 8})},
        {"coding": _affine(scales={"coding": "trellis", "bits": 2, "function": "mcg"})},
        {"coding": _affine(scales={"coding": "dense", "dtype": "bool"})},
        {"coding": {"coding": "lookup", "bits": 3, "table": "nf4"}},
        {"coding": FLOAT, "activations": {"bits": 0}},
        {"coding": FLOAT, "activations": {"bits": 8, "granularity": "galaxy"}},
        {"coding": FLOAT, "activations": {"bits": 8, "outlier_threshold": -1}},
        {"coding": FLOAT, "output_transforms": [{"transform": "reassemble"}]},
        {"coding": FLOAT, "transforms": [{"transform": "scale", "dtype": "int8"}]},
        {"coding": FLOAT, "transforms": [{"transform": "reassemble"}] * 3},
        {"coding": FLOAT, "transforms": [{"transform": "permute"}] * 17},
        {"coding": FLOAT, "corrections": [{"correction": "lowrank", "dtype": "float16"}] * 5},
    ],
)  # fmt: skip
def test_documents_that_break_the_grammar(document: object) -> None:
    with pytest.raises(InvalidFileError):
        schemes.parse(document)


def test_nesting_is_bounded() -> None:
    def nested(depth: int) -> dict[str, Any]:
        coding: dict[str, Any] = dict(FLOAT)
        for _ in range(depth - 1):
            coding = {"coding": "affine", "bits": 4, "scales": coding}
        return coding

    assert schemes.parse({"coding": nested(4)})
    for depth in (5, 9, 30, 3000):
        with pytest.raises(InvalidFileError):
            schemes.parse({"coding": nested(depth)})


@pytest.mark.parametrize(
    "books", [{"bits": 0}, {"bits": 17}, {"books": 0}, {"books": 65}, {"in_group": 0}, {"out_group": 0}]
)
def test_codebooks_out_of_range(books: dict[str, int]) -> None:
    with pytest.raises(InvalidFileError):
        _scheme({"coding": "additive", "books": 2, "bits": 8, "in_group": 8, **books})


@pytest.mark.parametrize("lattices", [[], ["e8p"] * 5, "e8p", None, [3], [["e8p"]]])
def test_points_out_of_range(lattices: object) -> None:
    with pytest.raises(InvalidFileError):
        _scheme({"coding": "lattice", "lattices": lattices})


def test_points_are_whole_vectors_with_finite_factors() -> None:
    scheme = _scheme({"coding": "lattice", "lattices": ["e8p", "e81b"]})
    assert linear.layout(scheme, SHAPE).length == 64 + 64 + 24
    with pytest.raises(InvalidFileError, match="vectors"):
        linear.layout(scheme, (6, 31))
    _refused(scheme, "factors", factors=[1, np.nan])


def test_lattices_of_a_later_version_are_unsupported_by_name() -> None:
    with pytest.raises(UnsupportedError, match="leech") as caught:
        _scheme({"coding": "lattice", "lattices": ["e8p", "leech"]})
    assert caught.value.field == "coding.lattices.1"


@pytest.mark.parametrize(
    "change",
    [
        {"columns": []}, {"columns": [16]}, {"columns": [32, 0]}, {"columns": [33, -1]}, {"columns": [2**63, 2]},
        {"columns": 32}, {"parts": []}, {"parts": [FLOAT]}, {"columns": [1] * 65, "parts": [FLOAT] * 65}, {"bits": 4},
        {"parts": [FLOAT, {"coding": "split", "columns": [16], "parts": [FLOAT]}]}, {"parts": [FLOAT, _affine(bits=9)]},
        {"parts": [FLOAT, {"coding": "dense", "dtype": "complex64"}]},
    ],
)  # fmt: skip
def test_a_split_out_of_range(change: dict[str, Any]) -> None:
    good = {"coding": "split", "columns": [16, 16], "parts": [FLOAT, FLOAT]}
    assert linear.layout(_scheme(good), SHAPE).length == 2 * 192
    with pytest.raises(InvalidFileError):
        _scheme({**good, **change})


def test_the_parts_of_a_split_fill_the_matrix() -> None:
    for columns in ([16, 15], [16, 17], [2**40, 2**40]):
        with pytest.raises(InvalidFileError) as caught:
            linear.layout(_scheme({"coding": "split", "columns": columns, "parts": [FLOAT, FLOAT]}), SHAPE)
        assert caught.value.field == "coding.columns"


def test_numbers_in_the_parts_of_a_split_are_finite() -> None:
    scheme = _scheme({"coding": "split", "columns": [16, 16], "parts": [FLOAT, _affine()]})
    _refused(scheme, "parts.1.scales", parts__1__scales=[[np.inf, 1]] * 6)


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 0}, {"bits": 9}, {"vector": 0}, {"vector": 3}, {"table_bits": 0}, {"table_bits": 17},
        {"function": "quantlut_sym", "table_bits": 16}, {"table_bits": None}, {"function": "mcg"},
        {"function": "mcg", "table_bits": None, "vector": 2}, {"table": {"coding": "dense", "dtype": "int8"}},
        {"group": {"group": "block"}}, {"layout": "panel"},
    ],
)  # fmt: skip
def test_a_trellis_out_of_range(change: dict[str, Any]) -> None:
    good = {"coding": "trellis", "bits": 2, "function": "lut", "vector": 2, "table_bits": 16}
    assert linear.layout(_scheme(good), SHAPE).length == 2**18 + 2 * 64
    with pytest.raises(InvalidFileError):
        _scheme({**good, **change})


def test_columns_must_be_whole_vectors() -> None:
    with pytest.raises(InvalidFileError, match="in_group"):
        linear.layout(_scheme({"coding": "additive", "books": 2, "bits": 8, "in_group": 7}), SHAPE)


@pytest.mark.parametrize("block", [0, 3, 12, -8, 2**30])
def test_hadamard_blocks_are_powers_of_two(block: int) -> None:
    with pytest.raises(InvalidFileError):
        _scheme(FLOAT, transforms=[{"transform": "hadamard", "block": block}])


@pytest.mark.parametrize(("block", "base"), [(16, 0), (16, 3), (8, 16), (48, 4), (1024, 1024), (16, -4)])
def test_hadamard_bases_are_small_and_fit_their_block(block: int, base: int) -> None:
    with pytest.raises(InvalidFileError):
        _scheme(FLOAT, transforms=[{"transform": "hadamard", "block": block, "base": base}])


@pytest.mark.parametrize("change", [{"rounds": 0}, {"rounds": 257}, {"rounds": -1}, {"dtype": "int8"}, {"block": 2}])
def test_rotations_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidFileError):
        _scheme(FLOAT, transforms=[{"transform": "rotate", "rounds": 2, "dtype": "float16", **change}])


def test_rotations_pair_every_channel_once() -> None:
    scheme = _scheme(FLOAT, transforms=[{"transform": "rotate", "rounds": 2, "dtype": "float16"}])
    good = np.arange(64).reshape(2, 16, 2) % 32
    linear.check(scheme, SHAPE, _arrays(scheme, transforms__0__pairs=good))
    for wrong in (0, 32, 2**32 - 1):
        pairs = good.copy()
        pairs[1, 3, 1] = wrong
        assert "round 1" in str(_refused(scheme, "transforms.0.pairs", transforms__0__pairs=pairs))
    _refused(scheme, "transforms.0.angles", transforms__0__pairs=good, transforms__0__angles=np.full((2, 16), np.inf))
    with pytest.raises(InvalidFileError, match="odd"):
        linear.layout(scheme, (6, 33))


def test_hadamard_blocks_divide() -> None:
    with pytest.raises(InvalidFileError, match="divide"):
        linear.layout(_scheme(FLOAT, transforms=[{"transform": "hadamard", "block": 64}]), SHAPE)


@pytest.mark.parametrize(
    "document",
    [
        {"coding": _affine(scales=_affine())},
        {"coding": {"coding": "additive", "books": 64, "bits": 16, "in_group": 16}},
        {"coding": {"coding": "lattice", "lattices": ["e8p"] * 4}},
        {"coding": {"coding": "trellis", "bits": 8, "function": "lut", "vector": 2, "table_bits": 16}},
        {"coding": {"coding": "split", "columns": [2**26, 2**26], "parts": [FLOAT, {"coding": "affine", "bits": 3}]}},
        {"coding": FLOAT, "transforms": [{"transform": "rotate", "rounds": 256, "dtype": "float64"}] * 16},
        {"coding": FLOAT, "output_transforms": [{"transform": "hadamard", "block": 2**20, "base": 512}] * 16},
    ],
    ids=["affine", "additive", "lattice", "trellis", "split", "rotate", "hadamard"],
)
def test_what_is_promised_costs_nothing(document: dict[str, Any]) -> None:
    """Where the roles of 2^47 weights lie is arithmetic, and the extent is measured against it before anything else."""
    tracemalloc.start()
    layout = linear.layout(_scheme(**document), (2**20, 2**27))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert layout.length > 2**40
    assert most < 1 << 20


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "most"), [("lowrank", 6), ("outliers", 6 * 32), ("outlier_columns", 32)])
def test_parameters_are_bounded_by_the_shape(kind: str, most: int) -> None:
    scheme = _scheme(FLOAT, corrections=[{"correction": kind, "dtype": "float16"}])
    assert linear.layout(scheme, SHAPE, (most,)).length > 0
    for wrong in ((most + 1,), (2**31,), (2**63,), (), (most, 1)):
        with pytest.raises(InvalidFileError) as caught:
            linear.layout(scheme, SHAPE, wrong)
        assert caught.value.field == "parameters"


def test_reassembled_channels_are_bounded() -> None:
    scheme = _scheme(FLOAT, transforms=[{"transform": "reassemble"}])
    assert linear.coded_shape(scheme, SHAPE, (40, 50, 0, 0)) == (6, 40)
    for wrong in ((0, 0), (2**48, 1), (40, 40 * 32 + 1), (40,)):
        with pytest.raises(InvalidFileError):
            linear.layout(scheme, SHAPE, wrong)


# -- values that index something ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [4, 2**31 - 1, 2**32 - 1])
def test_a_map_stays_within_its_groups(group: int) -> None:
    scheme = _scheme(_affine(group={"group": "map", "count": 4}))
    linear.check(scheme, SHAPE, _arrays(scheme, groups=[3, 0] * 16))  # unsorted, and a group without columns
    _refused(scheme, "groups", groups=[0] * 31 + [group])


def test_a_map_may_skip_groups() -> None:
    scheme = _scheme(_affine(group={"group": "map", "count": 4}))
    codes, scales = np.arange(32) % 16, np.float16([1, 2, 3, 4])  # the same in every row
    arrays = _arrays(scheme, groups=[3, 0] * 16, codes=codes, scales=scales)
    linear.check(scheme, SHAPE, arrays)
    expected = arrays["codes"].astype(np.float32) * np.tile(np.float32([4, 1]), 16)
    assert np.array_equal(linear.decode(scheme, SHAPE, arrays), expected)


@pytest.mark.parametrize("wrong", [0, 32, 2**32 - 1])
def test_a_permutation_is_a_bijection(wrong: int) -> None:
    scheme = _scheme(FLOAT, transforms=[{"transform": "permute"}])
    linear.check(scheme, SHAPE, _arrays(scheme, transforms__0__indices=np.arange(32)[::-1]))
    _refused(scheme, "transforms.0.indices", transforms__0__indices=[*range(31), wrong])


def test_bases_are_hadamard_matrices() -> None:
    scheme = _scheme(FLOAT, transforms=[{"transform": "hadamard", "block": 8, "base": 2}])
    linear.check(scheme, SHAPE, _arrays(scheme, transforms__0__signs=[1] * 32, transforms__0__base=[[1, 1], [1, -1]]))
    for wrong in (0, 2, -128, -1):
        base = [[1, 1], [wrong, -1]]
        _refused(scheme, "transforms.0.base", transforms__0__signs=[1] * 32, transforms__0__base=base)


@pytest.mark.parametrize("sign", [0, 2, -2, -128, 127])
def test_signs_are_plus_or_minus_one(sign: int) -> None:
    scheme = _scheme(FLOAT, transforms=[{"transform": "hadamard", "block": 4}])
    _refused(scheme, "transforms.0.signs", transforms__0__signs=[1] * 31 + [sign])


@pytest.mark.parametrize(
    ("pointers", "columns", "field"),
    [
        ([0, 1, 2, 3, 4, 5, 5], [0, 1, 2, 3, 32], "columns"),
        ([0, 1, 2, 3, 4, 5, 5], [0, 1, 2, 3, 2**32 - 1], "columns"),
        ([0, 2, 2, 2, 2, 5, 5], [1, 1, 2, 3, 4], "columns"),
        ([0, 2, 2, 2, 2, 5, 5], [2, 1, 2, 3, 4], "columns"),
        ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4], "row_pointers"),
        ([1, 1, 2, 3, 4, 5, 5], [0, 1, 2, 3, 4], "row_pointers"),
        ([0, 4, 2, 3, 4, 5, 5], [0, 1, 2, 3, 4], "row_pointers"),
        ([0, 2**32 - 1, 2, 3, 4, 5, 5], [0, 1, 2, 3, 4], "row_pointers"),
    ],
)
def test_sparse_rows(pointers: list[int], columns: list[int], field: str) -> None:
    scheme = _scheme(FLOAT, corrections=[{"correction": "outliers", "dtype": "float16"}])
    given = {"corrections__0__row_pointers": pointers, "corrections__0__columns": columns}
    _refused(scheme, f"corrections.0.{field}", (5,), **given)


@pytest.mark.parametrize("columns", [[0, 0], [1, 0], [0, 32], [0, 2**31]])
def test_outlier_columns_rise_and_exist(columns: list[int]) -> None:
    scheme = _scheme(FLOAT, corrections=[{"correction": "outlier_columns", "dtype": "float16"}])
    _refused(scheme, "corrections.0.columns", (2,), corrections__0__columns=columns)


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("role", ["scales", "zeros", "offsets"])
@pytest.mark.parametrize("layout", ["plain", "panel"])
def test_numbers_per_group_are_finite(value: float, role: str, layout: str) -> None:
    more = {} if role == "scales" else {role: FLOAT}
    scheme = _scheme(_affine(layout=layout, group={"group": "block", "rows": 1, "columns": 16}, **more))
    arrays = _arrays(scheme)
    arrays[role][5, 1] = value
    with pytest.raises(InvalidFileError) as caught:
        linear.check(scheme, SHAPE, arrays)
    assert caught.value.field == role
    with pytest.raises(InvalidFileError, match="finite"):
        linear.decode(scheme, SHAPE, arrays)


@pytest.mark.parametrize("value", [-0.0, 0.0, 6e-8, -6e-8])
def test_zero_and_subnormal_scales_are_accepted(value: float) -> None:
    scheme = _scheme(_affine())
    arrays = _arrays(scheme, scales=value, codes=15)
    linear.check(scheme, SHAPE, arrays)
    assert np.array_equal(linear.decode(scheme, SHAPE, arrays), np.full(SHAPE, np.float32(np.float16(value)) * 15))


def test_an_e8m0_scale_of_255_is_nan() -> None:
    dtype = {"coding": "dense", "dtype": "float8_e8m0fnu"}
    scheme = _scheme(
        {"coding": "lookup", "bits": 4, "table": "e2m1", "group": {"group": "block", "columns": 32}, "scales": dtype}
    )
    arrays = _arrays(scheme)
    arrays["scales"].view(np.uint8)[...] = 127
    linear.check(scheme, SHAPE, arrays)
    arrays["scales"].view(np.uint8)[3] = 255
    with pytest.raises(InvalidFileError) as caught:
        linear.check(scheme, SHAPE, arrays)
    assert caught.value.field == "scales"


def test_nested_numbers_are_finite_and_their_role_is_named() -> None:
    scheme = _scheme(_affine(scales={"coding": "affine", "bits": 6, "scales": FLOAT}))
    assert _refused(scheme, "scales.scales", scales__scales=np.inf, scales__codes=0).message.startswith("not finite")


def test_stored_tables_and_codebooks_are_finite() -> None:
    _refused(_scheme({"coding": "lookup", "bits": 2, "table": "tensor"}), "table", table=[0, 1, np.inf, 2])
    books = _scheme({"coding": "additive", "books": 2, "bits": 3, "in_group": 8})
    _refused(books, "codebooks", codebooks=np.inf)


def test_corrections_and_scales_of_inputs_are_finite() -> None:
    scheme = _scheme(FLOAT, corrections=[{"correction": "lowrank", "dtype": "float16"}])
    _refused(scheme, "corrections.0.b", (2,), corrections__0__b=np.nan)
    scheme = _scheme(FLOAT, transforms=[{"transform": "scale", "dtype": "float16"}])
    _refused(scheme, "transforms.0.scales", transforms__0__scales=np.nan)
    signalling = np.full(SHAPE[1], 0x7F90, np.uint16).view(ml_dtypes.bfloat16)  # numpy complains when it casts these
    scheme = _scheme(FLOAT, transforms=[{"transform": "scale", "dtype": "bfloat16"}])
    _refused(scheme, "transforms.0.scales", transforms__0__scales=signalling)


def test_codes_that_do_not_fit_are_not_packed() -> None:
    scheme = _scheme(_affine(zeros={"coding": "affine", "bits": 4}))
    for role in ("codes", "zeros.codes"):
        arrays = _arrays(scheme)
        arrays[role][...] = 16
        with pytest.raises(InvalidFileError, match="range") as caught:
            linear.pack(scheme, SHAPE, arrays)
        assert caught.value.field == role


# -- padding -----------------------------------------------------------------------------------------------------------


def test_every_padding_bit_is_checked() -> None:
    """Set every bit of an extent in turn: either an array changes or the padding check sees it."""
    document = _affine(
        bits=3,
        group={"group": "block", "rows": 1, "columns": 16},
        scales={"coding": "affine", "bits": 5, "scales": FLOAT},
    )
    for layout in ("plain", "panel"):
        scheme = _scheme({**document, "layout": layout})
        shape = (3, 21)
        arrays = {name: np.zeros(role.shape, role.dtype) for name, role in linear.roles(scheme, shape).items()}
        stored = linear.pack(scheme, shape, arrays)
        linear.check_padding(scheme, shape, (), stored)
        for place in range(8 * len(stored)):
            bits = np.unpackbits(stored)
            bits[place] ^= 1
            flipped = np.packbits(bits)
            found = linear.unpack(scheme, shape, (), flipped)
            changed = any(found[name].tobytes() != array.tobytes() for name, array in arrays.items())
            try:
                linear.check_padding(scheme, shape, (), flipped)
                seen = False
            except InvalidFileError:
                seen = True
            assert changed != seen


def test_checked_indices_are_private_copies() -> None:
    scheme = _scheme(FLOAT, transforms=[{"transform": "permute"}])
    stored = linear.pack(scheme, SHAPE, _arrays(scheme, transforms__0__indices=np.arange(32)))
    held = linear.secure(scheme, SHAPE, (), linear.parts(scheme, SHAPE, (), stored))
    stored[:] = 255
    assert np.array_equal(codings.whole(held["transforms.0.indices"]), np.arange(32))


def test_errors_are_of_the_tree() -> None:
    assert issubclass(LimitError, InvalidFileError)
    assert issubclass(InvalidFileError, QFormatError)
