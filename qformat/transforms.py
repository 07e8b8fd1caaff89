"""Transforms: what happens to the input of a coded matrix, or mirrored, to its output.

T is a matrix: the input x becomes T x, the coded matrix C acts like C · T. Listed among the output transforms, the same
data class means the transpose: the output y becomes Tᵀ y.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat.codings.grammar import Frozen
from qformat.codings.parts import Arrays, Role, whole
from qformat.errors import InvalidFileError
from qformat.sparse import check_csr, check_finite, csr_roles, float_dtype, rows_of


class Permute(Frozen, frozen=True, tag="permute", tag_field="transform"):
    """`x'[j] = x[indices[j]]` (act-order). Roles: indices uint32 (K,), a bijection."""


class Scale(Frozen, frozen=True, tag="scale", tag_field="transform"):
    """`x'[j] = x[j] · scales[j]` (AWQ, SmoothQuant, SINQ). Roles: scales (K,)."""

    dtype: str


class Hadamard(Frozen, frozen=True, tag="hadamard", tag_field="transform"):
    """`x' = H(signs · x) / √block` in blocks (QuIP#, arXiv 2402.04396 §3). Roles: signs int8 (K,) of ±1.

    H is Sylvester's matrix, or B ⊗ that of side block / base, for sides that are no power of two. Role: base int8
    (base, base), B, a Hadamard matrix too, where base is more than one.
    """

    block: int
    base: int = 1


class Rotate(Frozen, frozen=True, tag="rotate", tag_field="transform"):
    """Rounds of rotations of disjoint pairs of channels (ParoQuant, arXiv 2511.10645 §3).

    A round makes `x'[i] = x[i] · cos θ + x[j] · sin θ` and `x'[j] = x[j] · cos θ − x[i] · sin θ`. Roles: pairs uint32
    (rounds, K/2, 2), in each round every channel once; angles θ (rounds, K/2).
    """

    rounds: int
    dtype: str


class Reassemble(Frozen, frozen=True, tag="reassemble", tag_field="transform"):
    """`x' = R x`, R (channels, K) CSR (QLLM, arXiv 2310.08041 §4.1: split and merged channels).

    Parameters: channels, non-zeros. Roles: row_pointers uint32 (channels + 1,), columns uint32, values float32.
    """


Transform = Permute | Scale | Hadamard | Rotate | Reassemble

ROUNDS = 256
BASE = 512


def validate(transform: Transform, where: str, output: bool) -> None:
    """Parameters make sense whatever the shape."""
    if isinstance(transform, Scale | Rotate):
        float_dtype(transform.dtype, where)
    if isinstance(transform, Rotate) and not 1 <= transform.rounds <= ROUNDS:
        found, expected = transform.rounds, f"1 to {ROUNDS}"
        raise InvalidFileError("rounds out of range", field=f"{where}.rounds", expected=expected, found=found)
    if isinstance(transform, Hadamard):
        if not 1 <= transform.base <= BASE:
            found, expected = transform.base, f"1 to {BASE}"
            raise InvalidFileError("base out of range", field=f"{where}.base", expected=expected, found=found)
        if transform.block not in {transform.base * 2**power for power in range(25)}:
            what = "block is not a power of two" + " times the base" * (transform.base > 1)
            raise InvalidFileError(what, field=f"{where}.block", found=transform.block)
    if isinstance(transform, Reassemble) and output:
        raise InvalidFileError("reassemble transforms inputs only", field=where)


def roles(transform: Transform, before: int, after: int, nonzeros: int) -> dict[str, Role]:
    """The arrays of a transform from `before` channels to `after`."""
    match transform:
        case Permute():
            return {"indices": Role("uint32", (before,))}
        case Scale():
            return {"scales": Role(transform.dtype, (before,))}
        case Hadamard():
            if before % transform.block:
                raise InvalidFileError(
                    "block does not divide the side", field="block", expected=before, found=transform.block
                )
            signs, side = {"signs": Role("int8", (before,))}, transform.base
            return signs if side == 1 else {**signs, "base": Role("int8", (side, side))}
        case Rotate():
            if before % 2:
                raise InvalidFileError("an odd side has no pairs", field="pairs", found=before)
            shape = (transform.rounds, before // 2)
            return {"pairs": Role("uint32", (*shape, 2)), "angles": Role(transform.dtype, shape)}
        case Reassemble():
            return csr_roles(after, nonzeros, "float32")


# Numbers that are transformed at a time: both copies of them stay in the cache.
_SLAB = 1 << 17


def hadamard(x: NDArray[Any], block: int) -> NDArray[Any]:
    """Blocks of the last dimension times the Hadamard matrix of Sylvester, unscaled.

    Butterflies with distance 1, 2, 4, …: (a, b) becomes (a + b, a − b), rounded in the dtype of x.
    """
    blocks = x.reshape(-1, block)
    out = np.empty(blocks.shape, x.dtype)
    step = max(_SLAB // block, 1)
    for top in range(0, len(blocks), step):
        here = np.ascontiguousarray(blocks[top : top + step].T)  # sums of rows are fast at every distance
        there, distance = np.empty_like(here), 1
        while distance < block:
            first, second = here.reshape(-1, 2, distance * here.shape[1]).swapaxes(0, 1)
            found = there.reshape(-1, 2, distance * here.shape[1])
            np.add(first, second, out=found[:, 0])
            np.subtract(first, second, out=found[:, 1])
            here, there, distance = there, here, 2 * distance
        out[top : top + step] = here.T
    return out.reshape(x.shape)


def _rotated(x: NDArray[Any], transform: Hadamard, base: NDArray[Any] | None) -> NDArray[Any]:
    """Rows of x times H, unscaled: each block as (base, rest), the rest by butterflies, then the base in order."""
    x = hadamard(x, transform.block // transform.base)
    if base is None:
        return x
    blocks = x.reshape(len(x), x.shape[1] // transform.block, transform.base, transform.block // transform.base)
    out = np.zeros_like(blocks)
    for number, row in enumerate(base.astype(x.dtype)):
        out += blocks[:, :, number : number + 1] * row[:, None]
    return out.reshape(x.shape)


def _base(transform: Hadamard, arrays: Arrays) -> NDArray[Any] | None:
    return whole(arrays["base"]) if transform.base > 1 else None


def turns(arrays: Arrays, side: int) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
    """Rotations by channel: partner, cosine and sine of `x' = x · cosine + x[partner] · sine`, each (rounds, side).

    Cosine and sine are those of the stored number, rounded once to float32.
    """
    pairs, angles = whole(arrays["pairs"]).astype(np.intp), whole(arrays["angles"]).astype(np.float64)
    each, first, second = np.arange(len(pairs))[:, None], pairs[..., 0], pairs[..., 1]
    partners = np.zeros((len(pairs), side), np.intp)
    cosines, sines = np.zeros((2, len(pairs), side), np.float32)
    for channel, other, sign in ((first, second, 1), (second, first, -1)):
        partners[each, channel] = other
        cosines[each, channel] = np.cos(angles)
        sines[each, channel] = sign * np.sin(angles)
    return partners, cosines, sines


def multiply(matrix: NDArray[Any], transform: Transform, arrays: Arrays, before: int) -> NDArray[Any]:
    """matrix (n, after) · T as (n, before), each step rounded in the matrix's dtype."""
    match transform:
        case Permute():
            out = np.empty_like(matrix)
            out[:, whole(arrays["indices"])] = matrix
            return out
        case Scale():
            return np.asarray(matrix * whole(arrays["scales"]).astype(matrix.dtype))
        case Hadamard():
            rotated = _rotated(matrix, transform, _base(transform, arrays))
            scaled = rotated * matrix.dtype.type(1 / np.sqrt(transform.block))
            return np.asarray(scaled * whole(arrays["signs"]).astype(matrix.dtype))
        case Rotate():
            for partner, cosine, sine in reversed(list(zip(*turns(arrays, before), strict=True))):
                cosine, sine = cosine.astype(matrix.dtype), sine.astype(matrix.dtype)
                matrix = matrix * cosine - matrix[:, partner] * sine
            return matrix
        case Reassemble():
            out = np.zeros((len(matrix), before), matrix.dtype)
            values = whole(arrays["values"]).astype(matrix.dtype)
            rows = rows_of(whole(arrays["row_pointers"]))
            np.add.at(out.T, whole(arrays["columns"]), (matrix[:, rows] * values).T)  # in the order of the non-zeros
            return out


def apply(transform: Transform, arrays: Arrays, x: NDArray[Any], after: int) -> NDArray[Any]:
    """T x for x (batch, before), float64."""
    match transform:
        case Permute():
            return np.asarray(x[:, whole(arrays["indices"])])
        case Scale():
            return np.asarray(x * whole(arrays["scales"]).astype(np.float64))
        case Hadamard():
            base = _base(transform, arrays)
            rotated = _rotated(x * whole(arrays["signs"]), transform, None if base is None else base.T)
            return np.asarray(rotated / np.sqrt(transform.block))
        case Rotate():
            for partner, cosine, sine in zip(*turns(arrays, after), strict=True):
                x = x * cosine + x[:, partner] * sine
            return x
        case Reassemble():
            out = np.zeros((len(x), after))
            values = whole(arrays["values"]).astype(np.float64)
            np.add.at(out.T, rows_of(whole(arrays["row_pointers"])), (x[:, whole(arrays["columns"])] * values).T)
            return out


def check(transform: Transform, where: str, arrays: Arrays, side: int) -> None:
    """Indices are in range, numbers are finite: `arrays` holds the roles under the name `where`."""
    match transform:
        case Permute():
            indices = whole(arrays[f"{where}.indices"]).astype(np.int64)
            seen = np.zeros(side, bool)
            seen[indices[indices < side]] = True
            if not seen.all():
                missing = int(np.flatnonzero(~seen)[0])
                raise InvalidFileError(f"not a permutation: {missing} is missing", field=f"{where}.indices")
        case Scale():
            check_finite(f"{where}.scales", arrays)
        case Hadamard():
            signs = whole(arrays[f"{where}.signs"])
            if not (np.abs(signs.astype(np.int16)) == 1).all():
                raise InvalidFileError("signs are not ±1", field=f"{where}.signs")
            if transform.base > 1:
                base = whole(arrays[f"{where}.base"]).astype(np.float32)  # whose sums of 512 products are exact
                if not ((np.abs(base) == 1).all() and (base @ base.T == transform.base * np.eye(len(base))).all()):
                    raise InvalidFileError("not a Hadamard matrix", field=f"{where}.base")
        case Rotate():
            channels = np.sort(whole(arrays[f"{where}.pairs"]).reshape(transform.rounds, side), axis=1)
            wrong = (channels != np.arange(side)).any(axis=1)
            if wrong.any():
                found = int(np.flatnonzero(wrong)[0])
                raise InvalidFileError(f"round {found} has not every channel once", field=f"{where}.pairs")
            check_finite(f"{where}.angles", arrays)
        case Reassemble():
            check_csr(where, arrays, side)
            check_finite(f"{where}.values", arrays)
