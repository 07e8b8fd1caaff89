"""`split`, shown by EXL2: widths that change along the inputs, against a slow port of how it unpacks its words."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from qformat import linear, schemes
from qformat.codings import split
from qformat.codings.grammar import Additive, Affine, Block, Dense, Lookup, Split
from qformat.schemes import Scheme
from qformat.transforms import Permute

F16 = Dense(dtype="float16")


class Run(NamedTuple):
    """Groups of one width, as EXL2 stores them."""

    bits: int
    group: int  # inputs of a group
    words: NDArray[np.uint32]  # (rows · bits / 32, N)
    scales: NDArray[np.uint8]  # (groups, N), four bits each
    most: NDArray[np.float16]  # (groups,)

    @property
    def rows(self) -> int:
        return len(self.words) * 32 // self.bits


OUTPUTS = 32
RUNS = [(6, 16, 32), (5, 32, 64), (4, 32, 96), (2, 32, 48)]  # bits, inputs of a group, inputs; the last group is short


def _runs(seed: int) -> list[Run]:
    rng, runs = np.random.default_rng(seed), []
    for bits, group, rows in RUNS:
        groups = -(-rows // group)
        words = rng.integers(0, 2**32, (rows * bits // 32, OUTPUTS), dtype=np.uint32)
        most = rng.uniform(0.1, 9, groups).astype(np.float16)
        runs.append(Run(bits, group, words, rng.integers(0, 16, (groups, OUTPUTS)).astype(np.uint8), most))
    return runs


def _codes(run: Run) -> NDArray[Any]:
    """(rows, N): a stream along each column, the least significant bit first."""
    codes = np.zeros((run.rows, OUTPUTS), np.int64)
    for n in range(OUTPUTS):
        stream = sum(int(word) << 32 * i for i, word in enumerate(run.words[:, n]))
        for row in range(run.rows):
            codes[row, n] = stream >> run.bits * row & (2**run.bits - 1)
    return codes


def _scale(run: Run, group: int, n: int) -> np.float16:
    return np.float16((int(run.scales[group, n]) + 1) ** 2) * (run.most[group] * np.float16(1 / 256))


def _published(runs: list[Run], permutation: NDArray[Any]) -> NDArray[np.float16]:
    """W (N, K) with its float16 rounding of each product."""
    weight, first = np.zeros((len(permutation), OUTPUTS), np.float16), 0
    for run in runs:
        codes = _codes(run)
        for row, n in np.ndindex(codes.shape):
            signed = np.float16(codes[row, n] - 2 ** (run.bits - 1))
            weight[permutation[first + row], n] = signed * _scale(run, row // run.group, n)
        first += run.rows
    return weight.T


def _arrays(runs: list[Run], permutation: NDArray[Any], nested: bool) -> tuple[Scheme, dict[str, NDArray[Any]]]:
    parts, arrays = [], {"transforms.0.indices": permutation.astype(np.uint32)}
    squares = Lookup(bits=4, table="tensor", group=Block(rows=None, columns=1), scales=F16)
    for number, run in enumerate(runs):
        name = f"parts.{number}"
        scales = squares if nested else F16
        parts.append(Affine(bits=run.bits, signed=True, group=Block(rows=1, columns=run.group), scales=scales))
        arrays[f"{name}.codes"] = (_codes(run).T - 2 ** (run.bits - 1)).astype(np.int8)
        if nested:
            arrays[f"{name}.scales.table"] = np.arange(1, 17, dtype=np.float32) ** 2
            arrays[f"{name}.scales.codes"] = np.ascontiguousarray(run.scales.T)
            arrays[f"{name}.scales.scales"] = (run.most * np.float16(1 / 256)).reshape(1, -1)
        else:
            every = [[_scale(run, group, n) for group in range(len(run.most))] for n in range(OUTPUTS)]
            arrays[f"{name}.scales"] = np.array(every)
    coding = Split(columns=tuple(run.rows for run in runs), parts=tuple(parts))
    return Scheme(coding=coding, transforms=(Permute(),)), arrays


@pytest.mark.parametrize("nested", [True, False])
def test_exl2(nested: bool) -> None:
    runs = _runs(0)
    inputs = sum(run.rows for run in runs)
    permutation = np.random.default_rng(1).permutation(inputs)
    expected = _published(runs, permutation)
    scheme, arrays = _arrays(runs, permutation, nested)
    schemes.validate(scheme)
    linear.check(scheme, expected.shape, arrays)
    found = linear.decode(scheme, expected.shape, arrays)
    if nested:  # the exact products: two roundings of float16 away
        assert (np.abs(found - expected) <= 2.0**-10 * np.abs(found)).all()
    else:
        assert np.array_equal(found.astype(np.float16), expected)
    assert linear.decode(scheme, expected.shape, linear.unpack(scheme, expected.shape, (), linear.pack(
        scheme, expected.shape, arrays))).tobytes() == found.tobytes()  # fmt: skip


def test_parts_of_any_kind_lie_beside_each_other() -> None:
    """Weights beyond float32 in a part are infinities, as anywhere."""
    rng = np.random.default_rng(2)
    parts = (
        Dense(dtype="bfloat16"),
        Additive(books=1, bits=2, in_group=3),
        Affine(bits=4, scales=Dense(dtype="float32")),
    )
    scheme = Scheme(coding=Split(columns=(2, 6, 1), parts=parts))
    arrays: dict[str, NDArray[Any]] = {
        "parts.0": rng.standard_normal((4, 2)).astype("bfloat16"),
        "parts.1.codebooks": rng.standard_normal((1, 4, 1, 3)).astype(np.float16),
        "parts.1.codes": rng.integers(0, 4, (4, 2, 1)).astype(np.uint8),
        "parts.2.scales": np.full((1, 1), 3e38, np.float32),
        "parts.2.codes": np.uint8([[0], [1], [2], [15]]),
    }
    assert set(linear.roles(scheme, (4, 9))) == set(arrays)
    linear.check(scheme, (4, 9), arrays)
    books = arrays["parts.1.codebooks"][0, :, 0][arrays["parts.1.codes"][..., 0]].reshape(4, 6)
    last = np.float32([[0], [3e38], [np.inf], [np.inf]])
    assert np.array_equal(
        linear.decode(scheme, (4, 9), arrays), np.hstack([arrays["parts.0"].astype(np.float32), books, last])
    )


def test_only_the_parts_that_are_met_are_read() -> None:
    scheme = Scheme(coding=Split(columns=(4, 4), parts=(F16, F16)))
    arrays = {"parts.0": np.ones((3, 4), np.float16), "parts.1": np.zeros((3, 4), np.float16)}
    window = split.Window(0, 3, 1, 4)
    assert linear.decode(scheme, (3, 8), {"parts.0": arrays["parts.0"]}, window).tolist() == [[1.0] * 3] * 3
