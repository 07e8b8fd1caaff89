"""What the affine methods share: options, schemes, slabs, and the choice of the scale type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qformat.codings.grammar import Affine, Block, Dense
from qformat.converters.methods import lanes, native
from qformat.converters.methods.base import Array, Coded, Kernel, Method, Option, Options, Shape, State, largest_loop
from qformat.errors import SourceError
from qformat.schemes import Scheme

# A scale below 2^-21 has fewer than three bits in float16; it matters if its group is not negligible in the tensor.
_SMALLEST_SCALE = 2.0**-21
_NEGLIGIBLE = 2.0**-10
_LARGEST_HALF = 65504.0


def _is_group_size(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31)


BITS = Option(4, (1, 2, 3, 4, 5, 6, 7, 8))
GROUP_SIZE = Option(64, _is_group_size, "a positive number, or none for the whole row")
SCALE_DTYPE = Option("auto", ("auto", "float16", "float32"))
AFFINE_OPTIONS: Mapping[str, Option] = {"bits": BITS, "group_size": GROUP_SIZE, "scale_dtype": SCALE_DTYPE}


def group_of(options: Options, shape: Shape) -> Block:
    """Blocks of one row × group_size; a longer group, or one that would not fit panels, is the whole row."""
    size = options["group_size"]
    whole = size is None or size > shape[1] or (size == shape[1] and size % 16)
    return Block(rows=1, columns=None if whole else size)


def group_length(options: Options, shape: Shape) -> int:
    """Inputs of a group, at least 1."""
    return group_of(options, shape).columns or max(shape[1], 1)


def stored_dtype(options: Options) -> str:
    """The scale type; `auto` is float16 until the tensor has been seen."""
    return "float16" if options["scale_dtype"] == "auto" else str(options["scale_dtype"])


def affine_coding(options: Options, shape: Shape, *, signed: bool, third: str | None) -> Affine:
    """`third` is what stands beside the scales: None, "zeros" or "offsets" of their type, or "packed" integer zeros."""
    number = Dense(dtype=stored_dtype(options))
    group = group_of(options, shape)
    zeros = Affine(bits=options["bits"]) if third == "packed" else number if third == "zeros" else None
    return Affine(
        bits=options["bits"],
        signed=signed,
        group=group,
        scales=number,
        zeros=zeros,
        offsets=number if third == "offsets" else None,
        layout="panel" if group.columns is None or group.columns % 16 == 0 else "plain",
    )


def granularity(options: Options, shape: Shape) -> int:
    """Slabs are whole panels of sixteen rows; also eight rows of any width fill whole bytes in the plain layout."""
    return 16


def small_group(options: Options) -> float:
    """Groups whose largest weight is below this have a scale that float16 holds badly."""
    return float(_SMALLEST_SCALE * 2 ** (options["bits"] - 1))


def look(weight: Array, options: Options, first_row: int, shape: Shape) -> State:
    """How large the tensor is, and the largest group whose scale is too small for float16."""
    if options["scale_dtype"] != "auto":
        return {}
    length, limit = group_length(options, weight.shape), small_group(options)
    largest, small = native.loop("extremes", extremes_loop)(weight, length, limit)
    return {"largest": largest, "small": small}


def extremes_loop(weight: Array, group: int, limit: float) -> tuple[float, float]:
    """Twin of the native loop: the largest magnitude, and the largest of a group that stays below `limit`."""
    if weight.size == 0:
        return 0.0, 0.0
    largest = np.abs(lanes.cut(weight, group).x).max(axis=(2, 3))
    largest = np.where(np.isfinite(largest), largest, np.float32(np.inf))
    return float(largest.max()), float(largest[largest < np.float32(limit)].max(initial=0))


def combine(states: Sequence[State]) -> State:
    """The largest of each number."""
    return {name: max(state[name] for state in states) for name in states[0]}


def settle(options: Options, state: State) -> Options:
    """Float16 unless numbers would over- or underflow that are not negligible in this tensor; then float32."""
    if options["scale_dtype"] != "auto":
        return options
    largest, small = state["largest"], state["small"]
    fits = 2 * largest <= _LARGEST_HALF and (small == 0 or small < _NEGLIGIBLE * largest)
    return {**options, "scale_dtype": "float16" if fits else "float32"}


def affine_scheme(method: str, options: Options, shape: Shape, *, signed: bool, third: str | None) -> Scheme:
    """A scheme that is an affine coding and nothing else."""
    return Scheme(coding=affine_coding(options, shape, signed=signed, third=third), method=method)


def narrow(name: str, numbers: Array, dtype: str) -> Array:
    """Float32 numbers (rows, groups) that fit `dtype` exactly, as that type; SourceError if one overflowed."""
    if native.loop("largest", largest_loop)(np.ascontiguousarray(numbers)) == np.inf:
        row, column = (int(i) for i in np.argwhere(~np.isfinite(numbers))[0])
        raise SourceError(f"a {name} overflows {dtype}", field=f"group [{row}, {column}]", found=numbers[row, column])
    return np.asarray(native.loop("halves", halves_loop)(numbers)) if dtype == "float16" else numbers


def halves_loop(numbers: Array) -> Array:
    """Twin of the native loop: numbers that float16 holds exactly, as float16."""
    return numbers.astype(np.float16)


def method(
    name: str,
    options: Mapping[str, Option],
    scheme: Callable[[Options, Shape, str], Scheme],
    code: Callable[[Array, Options, State], Coded],
    kernel: Callable[[Options], Kernel | None],
) -> Method:
    """A method of plain affine codes: slabs of whole panels, one survey to choose the type of the scales."""
    return Method(
        name=name,
        options=options,
        scheme=scheme,
        code=code,
        granularity=granularity,
        look=look,
        combine=combine,
        settle=settle,
        screens=True,
        kernel=kernel,
    )
