"""What surrounds a coded matrix in a product: transforms of x before it, transforms of y after it, corrections.

The arithmetic is written with operators that numpy's arrays and torch's tensors share, so whoever multiplies a batch
uses its own library, threads and float type; only products with sparse matrices have no operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat import corrections
from qformat.codings.parts import Arrays, whole
from qformat.corrections import Correction, LowRank, Outliers
from qformat.kernels import _native
from qformat.schemes import Scheme
from qformat.transforms import Hadamard, Permute, Rotate, Scale, Transform, turns

# Side of the Hadamard matrices that larger ones are made of: their products are matrix products.
_SIDE = 64

Its = Mapping[str, Any]

# x (batch, K) and a CSR matrix S (N, K) as `row_pointers`, `columns`, `values` to x Sᵀ (batch, N).
Sparse = Callable[[Any, Its], Any]


@dataclass(frozen=True)
class Around:
    """Transforms and corrections with their arrays, ready for products of rows of x with rows of a weight."""

    inputs: tuple[tuple[Transform, Its], ...]
    outputs: tuple[tuple[Transform, Its], ...]
    corrections: tuple[tuple[Correction, Its], ...]
    sparse: Sparse

    @property
    def only_moves(self) -> bool:
        """Whether x is what it was, in another order at most."""
        return all(isinstance(transform, Permute) for transform, _ in self.inputs)

    def before(self, x: Any) -> Any:
        """x (batch, K) as the coded matrix takes it, in the dtype of x and of the arrays."""
        for transform, its in self.inputs:
            match transform:
                case Permute():
                    x = x[:, its["indices"]]
                case Scale():
                    x = x * its["scales"]
                case Hadamard():
                    x = _hadamard(x * its["signs"], transform, its)
                case Rotate():
                    for number in range(transform.rounds):
                        x = x * its["cosines"][number] + x[:, its["partners"][number]] * its["sines"][number]
                case _:
                    x = self.sparse(x, its)
        return x

    def after(self, y: Any) -> Any:
        """y (batch, N) of the coded matrix as the output transforms leave it."""
        for transform, its in reversed(self.outputs):
            match transform:
                case Permute():
                    y = y[:, its["places"]]
                case Scale():
                    y = y * its["scales"]
                case Hadamard():
                    y = _hadamard(y, transform, {**its, "base": its["base"].T}) * its["signs"]
                case Rotate():
                    for number in reversed(range(transform.rounds)):
                        y = y * its["cosines"][number] - y[:, its["partners"][number]] * its["sines"][number]
        return y

    def correct(self, y: Any, x: Any) -> None:
        """Add to y (batch, N) what the corrections make of x (batch, K), both float32."""
        for correction, its in self.corrections:
            match correction:
                case LowRank():
                    y += (x @ its["a"].T) @ its["b"].T
                case Outliers():
                    y += self.sparse(x, its)
                case _:
                    y += x[:, its["columns"]] @ its["values"].T

    def convert(self, array: Callable[[NDArray[Any]], Any], sparse: Sparse) -> Around:
        """The same with arrays of another kind."""

        def each(pairs: tuple[tuple[Any, Its], ...]) -> tuple[tuple[Any, Its], ...]:
            return tuple((what, {name: array(value) for name, value in its.items()}) for what, its in pairs)

        return Around(each(self.inputs), each(self.outputs), each(self.corrections), sparse)


def around(scheme: Scheme, arrays: Arrays, rows: range) -> Around:
    """What surrounds `rows` of a weight: arrays of float64 for transforms, of float32 for corrections.

    Args:
        arrays: every role, checked.
        rows: all of them, unless output transforms are local to rows.
    """

    def under(prefix: str) -> Arrays:
        return {name[len(prefix) + 1 :]: a for name, a in arrays.items() if name.startswith(f"{prefix}.")}

    inputs = tuple((t, _transform(t, under(f"transforms.{i}"), None)) for i, t in enumerate(scheme.transforms))
    outputs = tuple(
        (t, _transform(t, under(f"output_transforms.{i}"), rows)) for i, t in enumerate(scheme.output_transforms)
    )
    added = []
    for i, correction in enumerate(scheme.corrections):
        its = corrections.rows(correction, under(f"corrections.{i}"), rows)
        added.append((correction, {name: _ready(name, array, np.float32) for name, array in its.items()}))
    return Around(inputs, outputs, tuple(added), native_sparse_product)


def _transform(transform: Transform, arrays: Arrays, rows: range | None) -> Its:
    if isinstance(transform, Rotate):
        partners, cosines, sines = turns(arrays, 2 * whole(arrays["angles"]).shape[1])
        return {"partners": partners, "cosines": cosines.astype(np.float64), "sines": sines.astype(np.float64)}
    its: dict[str, Any] = {name: _ready(name, whole(array), np.float64) for name, array in arrays.items()}
    if isinstance(transform, Hadamard):
        its["walsh"] = _matrix(min(transform.block // transform.base, _SIDE))
        its.setdefault("base", np.ones((1, 1)))
    if rows is not None and isinstance(transform, Scale):
        its["scales"] = its["scales"][rows.start : rows.stop]
    if isinstance(transform, Permute):
        its["places"] = np.argsort(its["indices"])
    return its


def _ready(name: str, array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    return array.astype(np.intp if name in ("indices", "columns", "row_pointers") else dtype)


@cache
def _matrix(side: int) -> NDArray[np.float64]:
    """Sylvester's Hadamard matrix, unscaled."""
    matrix = np.ones((1, 1))
    while len(matrix) < side:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _hadamard(x: Any, transform: Hadamard, its: Its) -> Any:
    """Blocks of the rows of x times H made orthogonal, or its transpose where `its` has that of the base."""
    side, rest = transform.base, transform.block // transform.base
    x = _walsh(x, its["walsh"], rest)
    return x if side == 1 else (its["base"] @ x.reshape(-1, side, rest)).reshape(x.shape) * side**-0.5


def _walsh(x: Any, matrix: Any, block: int) -> Any:
    """Blocks of the rows of x times the orthogonal Hadamard matrix, which is a Kronecker product of small ones.

    `matrix` is the one of up to _SIDE; its leading square of another power of two is the smaller one.
    """
    shape, distance = x.shape, 1
    while distance < block:
        side = min(_SIDE, block // distance)
        small = matrix[:side, :side]
        if distance == 1:
            x = x.reshape(-1, side) @ small
        else:
            x = small @ x.reshape(-1, side, distance)
        distance *= side
    return x.reshape(shape) * block**-0.5


def sparse_product(x: NDArray[Any], its: Its) -> NDArray[Any]:
    """x (batch, K) times a CSR matrix (N, K), transposed: (batch, N) in the dtype of x."""
    pointers, columns, values = its["row_pointers"], its["columns"], its["values"]
    out = np.zeros((len(x), len(pointers) - 1), x.dtype)
    filled = pointers[1:] > pointers[:-1]
    if not filled.any():
        return out
    starts = pointers[:-1][filled]
    if len(x) <= 8:
        for row, into in zip(x, out, strict=True):
            into[filled] = np.add.reduceat(row[columns] * values, starts)
    else:  # a run of the batch for each non-zero
        out[:, filled] = np.add.reduceat(x.T[columns] * values[:, None], starts, axis=0).T
    return out


def native_sparse_product(x: NDArray[Any], its: Its) -> NDArray[Any]:
    """The same, by the kernels if x is float32."""
    if x.dtype != np.float32:
        return sparse_product(x, its)
    out = np.zeros((len(x), len(its["row_pointers"]) - 1), np.float32)
    _native.add_sparse(its["row_pointers"], its["columns"], its["values"], x, out)
    return out
