"""Members of stacks: one matrix of a three-dimensional weight is what the stack holds there."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qformat
from qformat.codings.grammar import Coding, Dense, Lattice, Split, Trellis
from qformat.converters.methods import quantize
from qformat.errors import UnsupportedError
from qformat.member import Member
from qformat.schemes import Scheme
from qformat.transforms import Hadamard
from tests.one_tensor import saved
from tests.strategies import arrays_for

# Panels, planes, nested scales, a sparse correction, transforms of both sides, and layouts that only decoding reads.
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("rtn", {"bits": 4, "group_size": 32}),
    ("ls", {"bits": 3, "group_size": 32}),
    ("int8", {}),
    ("nf4", {}),
    ("tail", {"bits": 4, "group_size": 32}),
    ("sinq", {"bits": 4, "group_size": 32}),
]


def stack(
    folder: str | Path, method: str, options: dict[str, Any], shape: tuple[int, int, int], transposed: bool
) -> qformat.Tensor:
    """Random matrices of `shape` (number, out, in), quantized as one and written to a file that is opened again."""
    number, high, width = shape
    weight = np.random.default_rng(0).standard_normal((number * high, width)).astype(np.float32)
    coded = quantize(method, weight, **options)
    scheme = msgspec.structs.replace(coded.scheme, transposed=transposed)
    source = (number, width, high) if transposed else shape
    return saved(Path(folder) / "stack.qf", scheme, source, coded.arrays, coded.parameters)


@given(
    method=st.sampled_from(METHODS),
    shape=st.tuples(st.integers(1, 4), st.sampled_from([1, 16, 20, 48]), st.sampled_from([32, 64, 96])),
    transposed=st.booleans(),
    mode=st.sampled_from(["exact", "int8"]),
    data=st.data(),
)
def test_member_is_its_part_of_the_stack(
    method: tuple[str, dict[str, Any]], shape: tuple[int, int, int], transposed: bool, mode: Any, data: st.DataObject
) -> None:
    """The same numbers decoded, rows and columns selected or not, and the products of the whole stack's rows."""
    with tempfile.TemporaryDirectory() as folder:
        whole = stack(folder, *method, shape, transposed)
        number = data.draw(st.integers(0, shape[0] - 1))
        member = Member(whole, number)
        expected = whole.decode()[number]
        assert member.shape == expected.shape
        assert np.array_equal(member.decode(), expected)
        rows = slice(data.draw(st.integers(0, member.shape[0])), None, data.draw(st.sampled_from([1, 3])))
        columns = np.arange(member.shape[1])[:: data.draw(st.sampled_from([1, 2]))]
        assert np.array_equal(member.decode(rows=rows, columns=columns), expected[rows][:, columns])

        x = np.random.default_rng(1).standard_normal((3, shape[2])).astype(np.float32)
        high = shape[1]
        products = whole.matvec(x, mode)[:, number * high : (number + 1) * high]
        size = np.abs(x) @ np.abs(expected if transposed else expected.T)
        # the same sums, but for members whose panels hold other rows as well: these are decoded and multiplied
        tolerance = 1e-5 if mode == "exact" else 0.03
        assert (np.abs(member.matvec(x, mode) - products) <= tolerance * size + 1e-6).all()


def test_only_the_bytes_of_a_member_are_read(tmp_path: Path) -> None:
    """Products of one expert check the chunks that hold it, and no other: damage elsewhere is not met."""
    whole = stack(tmp_path, "rtn", {"bits": 8, "group_size": 32}, (8, 1024, 1024), False)
    path = Path(whole._model.path)
    whole._model.close()
    stored = bytearray(path.read_bytes())
    stored[len(stored) // 16] ^= 255  # in the first expert
    path.write_bytes(stored)
    damaged = qformat.open(path)["w"]
    assert np.isfinite(Member(damaged, 7).matvec(np.ones(1024, np.float32))).all()
    with pytest.raises(qformat.errors.IntegrityError):
        Member(damaged, 0).matvec(np.ones(1024, np.float32))


def test_member_travels_as_the_path_of_its_file(tmp_path: Path) -> None:
    member = Member(stack(tmp_path, "rtn", {"bits": 4, "group_size": 32}, (3, 16, 32), False), 1)
    other = pickle.loads(pickle.dumps(member))
    assert np.array_equal(other.decode(), member.decode())


def test_what_is_no_stack_is_refused(tmp_path: Path) -> None:
    """Rows that an output transform mixes belong to no member; nor has a matrix members."""
    whole = stack(tmp_path, "rtn", {"bits": 4, "group_size": 32}, (2, 16, 32), False)
    with pytest.raises(IndexError, match="entry 2 of 2"):
        Member(whole, 2)
    with pytest.raises(UnsupportedError, match="not a stack"):
        Member(Member(whole, 0), 0)
    mixing = Scheme(coding=Dense(dtype="float32"), output_transforms=(Hadamard(block=16),))
    arrays = {"values": np.zeros((32, 32), np.float32), "output_transforms.0.signs": np.ones(32, np.int8)}
    with pytest.raises(UnsupportedError, match="not a stack"):
        Member(saved(tmp_path / "mixing.qf", mixing, (2, 16, 32), arrays), 0)


@pytest.mark.parametrize(
    "coding",
    [
        Lattice(lattices=("e8p", "e81b")),
        Trellis(bits=3, function="mcg", order="exl3"),
        Split(columns=(32, 16), parts=(Trellis(bits=2, function="1mad"), Lattice(lattices=("e8p",)))),
    ],
)
@pytest.mark.parametrize("high", [16, 32, 20])
def test_members_of_what_is_decoded_in_strips(tmp_path: Path, coding: Coding, high: int) -> None:
    """By the kernels where they start with a tile, as their definition says where they do not."""
    shape = (3, high, 48)
    whole = saved(tmp_path / "w.qf", Scheme(coding=coding), shape, arrays_for(coding, (3 * high, 48), 0))
    x, weight = np.random.default_rng(0).standard_normal((2, 48)).astype(np.float32), whole.decode()
    for number in range(3):
        member = Member(whole, number)
        np.testing.assert_array_equal(member.decode(), weight[number])
        np.testing.assert_array_equal(member.decode(rows=[3, 11]), weight[number][[3, 11]])
        native = member.product.operand.native is not None
        assert native == (isinstance(coding, Lattice) or number * high % 16 == 0)
        np.testing.assert_allclose(member.matvec(x), x @ weight[number].T, rtol=1e-5, atol=1e-5)
