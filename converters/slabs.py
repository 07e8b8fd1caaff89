"""One job: read a slab of rows, code it, pack it. Everything that a worker runs is here, and it needs no shared state.

The packed bytes of a slab are cut by place (a role, or the panels): the extent of the whole tensor has the same places,
each of which is the slabs' bytes one after the other, or one copy of what all slabs share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from qformat import linear
from qformat.converters.methods import METHODS, Method, fused, native, to_float32
from qformat.converters.methods.base import largest_loop
from qformat.converters.methods.floats import largest_bits
from qformat.converters.methods.packing import pack
from qformat.converters.plan import Item
from qformat.errors import QFormatError, SourceError
from qformat.schemes import Scheme

Bytes = npt.NDArray[np.uint8]

# Exponent bits of 16- and 32-bit floats: all ones mean NaN or infinity.
_SPECIAL = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF0000000000000}


@dataclass(frozen=True)
class Job:
    """A slab to survey (`survey`) or to code; `state` is the tensor's when the method looks first."""

    item: Item
    start: int
    stop: int
    options: dict[str, Any]
    state: dict[str, Any] | None = None
    survey: bool = False
    look: bool = False  # code and survey in one go


@dataclass(frozen=True)
class Result:
    """What came of a job. Only one of `places`, a bare `state` or `problem` matters."""

    places: dict[str, Bytes]
    scheme: Scheme | None = None
    parameters: tuple[int, ...] = ()
    errors: npt.NDArray[np.float64] | None = None
    state: dict[str, Any] | None = None
    problem: str | None = None
    nonfinite: tuple[int, int] = (0, 0)  # NaN, infinite


def run(job: Job) -> Result:
    """Do one job; a weight that cannot be coded is a `problem` in the result, anything else is raised."""
    item = job.item
    assert item.method is not None
    method = METHODS[item.method]
    raw = item.tensor.read_rows(job.start, job.stop, item.transposed)
    if not job.survey and (fused := _fused(job, method, raw)) is not None:
        return fused
    weight = to_float32(raw)
    found = (0, 0) if is_finite(weight) else count_nonfinite(raw, item.tensor.dtype)
    if any(found) and job.options["nonfinite"] == "refuse":
        return Result({}, nonfinite=found, problem="NaN or infinity in the weights")
    state = None
    try:
        if job.survey or job.look:
            state = method.survey(
                weight, {**job.options, "scale_dtype": "auto"} if job.look else job.options, job.start, item.matrix
            )
            if job.survey:
                return Result({}, state=state, nonfinite=found)
        coded = method.quantize(weight, job.options, state if job.look else job.state, job.start)
    except SourceError as error:
        return Result({}, state=state, nonfinite=found, problem=error.message)
    except QFormatError as error:
        error.file, error.tensor = error.file or item.tensor.file.name, error.tensor or item.name
        raise
    scheme = msgspec.structs.replace(coded.scheme, transposed=True) if item.transposed else coded.scheme
    packed = pack(scheme, weight.shape, coded.arrays, coded.parameters)
    extent = linear.layout(scheme, weight.shape, coded.parameters)
    places = {name: packed[place.offset : place.offset + place.nbytes] for name, place in extent.places.items()}
    return Result(places, scheme, coded.parameters, coded.errors, state, nonfinite=found)


def _fused(job: Job, method: Method, raw: npt.NDArray[Any]) -> Result | None:
    """A slab coded in one pass, where that can be done."""
    scheme = method.scheme(job.options, raw.shape, job.item.tensor.dtype)
    done = fused.code(method, job.options, scheme, raw)
    if done is None:
        return None
    if job.item.transposed:
        scheme = msgspec.structs.replace(scheme, transposed=True)
    return Result({"panels": done.panels}, scheme, (), done.errors, done.state if job.look else None)


def is_finite(weight: npt.NDArray[np.float32]) -> bool:
    """Whether there is no NaN and no infinity in a matrix of float32, at the speed of memory."""
    return bool(native.loop("largest", largest_loop)(weight) < np.inf)


def count_nonfinite(raw: npt.NDArray[Any], dtype: str) -> tuple[int, int]:
    """(NaN, infinities) in an array of a float type; quick when there are none."""
    if dtype not in _SPECIAL or raw.size == 0:
        return 0, 0
    special = _SPECIAL[dtype]
    whole = {2: np.uint16, 4: np.uint32, 8: np.uint64}[raw.dtype.itemsize]
    if raw.flags.c_contiguous:
        if whole is np.uint16 and largest_bits(raw.view(whole)) < special:
            return 0, 0
        if whole is np.uint32 and is_finite(raw.reshape(1, -1).view(np.float32)):
            return 0, 0
    bits = raw.view(whole).reshape(-1) & whole(special | (special - 1))  # without the sign
    return int(np.count_nonzero(bits > special)), int(np.count_nonzero(bits == special))


# -- one tensor after another -----------------------------------------------------------------------------------------


def jobs(item: Item, options: dict[str, Any], state: dict[str, Any] | None = None, **flags: bool) -> list[Job]:
    """The slabs of an item as jobs."""
    return [Job(item, start, stop, options, state, **flags) for start, stop in item.slabs()]
