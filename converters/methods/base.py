"""What a method is: a name, its options, and pure functions from rows of weights to a coded linear.

A large tensor is coded in slabs of rows. A method that must know the whole tensor first (a scale type that fits all of
it, a mean, a threshold) looks at every slab once (`survey`), the states are put together (`combine`), and each slab is
then coded with the same state, in any order and by any number of workers: the result is that of one slab.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qformat import linear
from qformat.converters.methods import lanes, native
from qformat.errors import RecipeError, SourceError
from qformat.schemes import Scheme

Array = NDArray[Any]
Options = Mapping[str, Any]
Shape = tuple[int, int]
State = dict[str, Any]


class Option(NamedTuple):
    """One option: its default and what is allowed (a tuple of values, or a test with the words that describe it)."""

    default: Any
    allowed: tuple[Any, ...] | Callable[[Any], bool]
    words: str = ""

    def accepts(self, value: Any) -> bool:
        """A value equal to an allowed one must also have its type: True is no 1, and 4.0 no number of bits."""
        if callable(self.allowed):
            return bool(self.allowed(value))
        return any(value == each and type(value) is type(each) for each in self.allowed)

    @property
    def expected(self) -> str:
        return self.words or ", ".join(str(value) for value in self.allowed if not callable(self.allowed))  # type: ignore[union-attr]


@dataclass(frozen=True)
class Coded:
    """A coded matrix of `rows` rows: its scheme, arrays by role, and the errors of each row.

    `errors` is float64 (rows, 3): squared error, squared norm, largest absolute error, against what decoding gives.
    """

    scheme: Scheme
    parameters: tuple[int, ...]
    arrays: dict[str, Array]
    errors: Array

    @property
    def rows(self) -> int:
        return len(self.errors)

    @property
    def squared_error(self) -> float:
        """Sum of (weight − decoded)²."""
        return float(self.errors[:, 0].sum())

    @property
    def squared_norm(self) -> float:
        """Sum of weight²."""
        return float(self.errors[:, 1].sum())

    @property
    def max_error(self) -> float:
        """Largest |weight − decoded|."""
        return float(self.errors[:, 2].max(initial=0.0))

    @property
    def error(self) -> float:
        """Relative Frobenius error; 0 of a matrix that is zero and decodes to zero."""
        return (self.squared_error / self.squared_norm) ** 0.5 if self.squared_norm else float(self.squared_error > 0)


class Kernel(NamedTuple):
    """The native loop of a method that codes rows one by one, as the pass over a slab needs it (see `fused.py`).

    third: the array beside the codes and scales, if there is one; ceiling: the largest magnitude that is coded.
    """

    loop: str
    third: str | None = None
    symmetric: bool = False
    solver: tuple[float, float, float, int] = (1.0, 1.0, 1.0, 0)
    table: str = "nf4"
    ceiling: float = lanes.LARGEST_WEIGHT


NONFINITE = Option("refuse", ("refuse", "zero", "clamp"))


@dataclass(frozen=True)
class Method:
    """A row of `METHODS`. The functions take resolved options (see `resolve`); weights are float32 (rows, K).

    scheme(options, shape, dtype): the scheme, from headers alone (dtype is the source's).
    code(weight, options, state): the work.
    granularity(options, shape): rows of a slab must be a multiple of this (but for the last slab).
    look(weight, options, first_row, shape): the state of one slab.
    combine(states): the state of the tensor from those of its slabs, in order.
    settle(options, state): options after the whole tensor was seen (a definite scale type).
    count(options, shape, state): the scheme's recorded parameters.
    screens: `look` copes with weights that are not finite, and then says so by an infinite `largest` in its state.
    kernel(options): the native loop, if rows can be coded one by one; the result is that of `quantize` all the same.
    two_pass(options): whether slabs must be surveyed before any is coded (`quantize` surveys a single slab itself).
    """

    name: str
    options: Mapping[str, Option]
    scheme: Callable[[Options, Shape, str], Scheme]
    code: Callable[[Array, Options, State], Coded]
    granularity: Callable[[Options, Shape], int]
    look: Callable[[Array, Options, int, Shape], State]
    combine: Callable[[Sequence[State]], State]
    settle: Callable[[Options, State], Options] = lambda options, state: options
    count: Callable[[Options, Shape, State], tuple[int, ...]] = lambda options, shape, state: ()
    two_pass: Callable[[Options], bool] = lambda options: options["scale_dtype"] == "auto"
    screens: bool = False
    kernel: Callable[[Options], Kernel | None] = lambda options: None

    def resolve(self, given: Options) -> dict[str, Any]:
        """Defaults filled in, every value checked; RecipeError for an unknown option or a value that makes no sense."""
        table = {**self.options, "nonfinite": NONFINITE}
        for name, value in given.items():
            if name not in table:
                raise RecipeError(f"method {self.name} has no such option", field=name, expected=", ".join(table))
            if not table[name].accepts(value):
                raise RecipeError(f"not for method {self.name}", field=name, expected=table[name].expected, found=value)
        return {name: given.get(name, option.default) for name, option in table.items()}

    def survey(self, weight: Array, options: Options, first_row: int, shape: Shape) -> State:
        """The state of the slab that begins at `first_row` of a tensor of `shape`."""
        return self._look_clean(weight, options, first_row, shape)[1]

    def _look_clean(self, weight: Array, options: Options, first_row: int, shape: Shape) -> tuple[Array, State]:
        """The clean slab and its state; one pass over the weights where `look` sees what `clean` looks for."""
        if self.screens and weight.ndim == 2:
            weight = np.ascontiguousarray(weight, dtype=np.float32)
            state = self.look(weight, options, first_row, shape)
            if state and state["largest"] <= lanes.LARGEST_WEIGHT:
                return weight, state
        weight = clean(weight, options["nonfinite"], first_row)
        return weight, self.look(weight, options, first_row, shape)

    def quantize(self, weight: Array, options: Options, state: State | None = None, first_row: int = 0) -> Coded:
        """Code one slab; without a state the slab is the whole tensor.

        Raises:
            SourceError: a weight is NaN or infinite (or beyond 2^100), or a scale does not fit the type asked for.
        """
        if weight.size == 0 and weight.ndim == 2:
            settled = self.settle(options, state) if state else options
            return nothing(self.scheme(settled, weight.shape, ""), weight.shape)
        if state is None:
            weight, seen = self._look_clean(weight, options, first_row, weight.shape)
            state = self.combine([seen])
        else:
            weight = clean(weight, options["nonfinite"], first_row)
        return self.code(weight, self.settle(options, state), state)


def clean(weight: Array, nonfinite: str, first_row: int = 0) -> Array:
    """The slab as contiguous float32 without NaN, infinities or numbers beyond 2^100.

    `nonfinite` says what becomes of those: "refuse" (SourceError with the index), "zero", or "clamp" (NaN becomes 0,
    the others the largest finite weight of the row with their sign).
    """
    if weight.ndim != 2:
        raise SourceError("weights must be a matrix", expected="(N, K)", found=weight.shape)
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    if native.loop("largest", largest_loop)(weight) <= lanes.LARGEST_WEIGHT:
        return weight
    good = np.abs(weight) <= lanes.LARGEST_WEIGHT
    row, column = (int(i) for i in np.argwhere(~good)[0])
    if nonfinite == "refuse":
        where = f"[{row + first_row}, {column}]"
        raise SourceError("weight is not a finite number of sensible size", field=where, found=weight[row, column])
    edge = np.where(good, np.abs(weight), 0).max(axis=1, keepdims=True) * (nonfinite == "clamp")
    return np.where(good, weight, np.nan_to_num(np.sign(weight) * edge, nan=0.0)).astype(np.float32)


def largest_loop(weight: Array) -> float:
    """Twin of the native loop: the largest magnitude, infinity if there is a NaN or an infinity; 0 of nothing."""
    largest = float(np.abs(weight).max(initial=0))
    return largest if np.isfinite(largest) else float("inf")


def nothing(scheme: Scheme, shape: Shape) -> Coded:
    """A matrix without weights: arrays without elements, and ones where a whole tensor's number is needed."""
    parameters = tuple(0 for part in scheme.corrections if type(part).__name__ != "LowRank")
    arrays = {
        name: (np.ones if name.startswith("transforms.") else np.zeros)(role.shape, role.dtype)
        for name, role in linear.roles(scheme, shape, parameters).items()
    }
    return Coded(scheme, parameters, arrays, np.zeros((shape[0], 3)))


def join(parts: Sequence[Coded]) -> Coded:
    """Slabs of rows, in order, as one tensor.

    Raises:
        RecipeError: no parts, or parts of different schemes.
    """
    if not parts or any(part.scheme != parts[0].scheme for part in parts):
        raise RecipeError("slabs of one tensor must share a scheme", found=len(parts))
    if len(parts) == 1:
        return parts[0]
    scheme = parts[0].scheme
    arrays = {name: _join_arrays(scheme, name, [part.arrays[name] for part in parts]) for name in parts[0].arrays}
    parameters = tuple(sum(column) for column in zip(*(part.parameters for part in parts), strict=True))
    return Coded(scheme, parameters, arrays, np.concatenate([part.errors for part in parts]))


def _join_arrays(scheme: Scheme, name: str, arrays: list[Array]) -> Array:
    first = name.split(".")[0]
    if name.endswith("row_pointers"):
        ends = np.cumsum([0, *(int(array[-1]) for array in arrays)])
        moved = [array[1:] + np.uint32(end) for array, end in zip(arrays, ends[:-1], strict=True)]
        return np.concatenate([arrays[0][:1], *moved])
    if first == "corrections":
        return np.concatenate(arrays)
    if first == "transforms" or name.split(".")[-1] in ("offset", "table"):
        return arrays[0]  # one for the whole tensor
    return np.concatenate(arrays, axis=1 if _is_flat(scheme.coding, name.split(".")) else 0)


def _is_flat(coding: Any, path: list[str]) -> bool:
    """Whether the array at `path` has one number per flat run, so that slabs extend it sideways."""
    if path[0] == "codes":
        return False
    child = getattr(coding, path[0])
    if coding.group.__class__.__name__ == "Flat":
        return True
    return len(path) > 1 and _is_flat(child, path[1:])
