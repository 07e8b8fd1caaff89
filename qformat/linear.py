"""The weight that a scheme describes: transforms of the input, a coding, transforms of the output, corrections.

    W = O₁ᵀ · … · Oₙᵀ · C · Tₘ · … · T₁  +  corrections          y = W x

C is the coded matrix, T₁ is the first transform that x meets, and O₁ the last that y meets: output transforms mirror
input transforms, the same data class means the transpose there. Corrections act on the layer's own x and y.

Every function takes `shape`, the matrix (N, K) that W is (`matrix_shape` of the tensor's), and `parameters`, the
numbers that depend on the data (non-zeros, rank), in the order in which transforms and corrections take them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qformat import codings, corrections, transforms
from qformat.codings import extents
from qformat.codings.grammar import Coding
from qformat.codings.panel import Panels
from qformat.codings.parts import Arrays, Buffer, Extent, Part, Role, Window, whole, within
from qformat.errors import InvalidFileError
from qformat.schemes import Scheme
from qformat.sparse import elements
from qformat.transforms import Hadamard, Reassemble, Rotate, Scale

Shape = tuple[int, int]

# A coding, the shape of its matrix, arrays and a rectangle to that of the matrix.
DecodeCoded = Callable[[Coding, Shape, Arrays, Window], NDArray[np.float32]]


# -- shapes ------------------------------------------------------------------------------------------------------------


def matrix_shape(shape: tuple[int, ...], transposed: bool = False) -> Shape:
    """The matrix (N, K) of a tensor: K is its last dimension, after the last two are swapped if `transposed`."""
    if len(shape) < 2:
        if transposed:
            raise InvalidFileError("fewer than two dimensions to transpose", field="transposed", found=shape)
        return 1, shape[0] if shape else 1
    if transposed:
        shape = (*shape[:-2], shape[-1], shape[-2])
    return prod(shape[:-1]), shape[-1]


class _Sizes(NamedTuple):
    """What the parameters mean: rows and non-zeros of each input transform, the number of each correction."""

    transforms: list[tuple[int, int, int]]  # width before, width after, non-zeros
    corrections: list[int]
    coded: Shape


def _sizes(scheme: Scheme, shape: Shape, parameters: tuple[int, ...]) -> _Sizes:
    """Hand the parameters out, each within its bound."""
    left = iter(parameters)

    def take(name: str, most: int, least: int = 0) -> int:
        value = next(left, None)
        if value is None or not least <= value <= most:
            raise InvalidFileError(
                f"{name} out of range", field="parameters", expected=f"{least} to {most}", found=value
            )
        return value

    rows, width = shape
    widths = []
    for number, transform in enumerate(scheme.transforms):
        after, nonzeros = width, 0
        if isinstance(transform, Reassemble):
            after = take(f"transforms.{number}: channels", (2**48 - 1) // max(rows, 1), 1)
            nonzeros = take(f"transforms.{number}: non-zeros", min(after * width, 2**32 - 1))
        widths.append((width, after, nonzeros))
        width = after
    numbers = []
    for number, correction in enumerate(scheme.corrections):
        name, most = corrections.bound(correction, shape)
        numbers.append(take(f"corrections.{number}: {name}", most))
    spare = [value for value in left if value]
    if spare:
        raise InvalidFileError("more parameters than the scheme has", field="parameters", found=parameters)
    return _Sizes(widths, numbers, (rows, width))


def coded_shape(scheme: Scheme, shape: Shape, parameters: tuple[int, ...] = ()) -> Shape:
    """The shape of the coded matrix: it differs from W's only if channels are reassembled."""
    return _sizes(scheme, shape, parameters).coded


# -- roles and bytes ---------------------------------------------------------------------------------------------------


# layers and experts of a model have few schemes and shapes between them
@lru_cache(1024)
def roles(scheme: Scheme, shape: Shape, parameters: tuple[int, ...] = ()) -> Mapping[str, Role]:
    """Every array of a weight in the order of the extent: transforms, output transforms, corrections, the coding."""
    sizes = _sizes(scheme, shape, parameters)
    found: dict[str, Role] = {}
    for number, (transform, size) in enumerate(zip(scheme.transforms, sizes.transforms, strict=True)):
        with within(f"transforms.{number}"):
            found |= _named(f"transforms.{number}", transforms.roles(transform, *size))
    for number, transform in enumerate(scheme.output_transforms):
        with within(f"output_transforms.{number}"):
            found |= _named(f"output_transforms.{number}", transforms.roles(transform, shape[0], shape[0], 0))
    for number, (correction, size_of) in enumerate(zip(scheme.corrections, sizes.corrections, strict=True)):
        found |= _named(f"corrections.{number}", corrections.roles(correction, shape, size_of))
    with within("coding"):
        return MappingProxyType(found | codings.roles(scheme.coding, sizes.coded))


def _named(prefix: str, its_roles: Mapping[str, Role]) -> dict[str, Role]:
    return {f"{prefix}.{name}": role for name, role in its_roles.items()}


def panels(scheme: Scheme, shape: Shape, parameters: tuple[int, ...] = ()) -> Panels | None:
    """The geometry of the panels of an affine or lookup coding, or None."""
    return codings.panels(scheme.coding, coded_shape(scheme, shape, parameters))


@lru_cache(1024)
def _geometry(scheme: Scheme, shape: Shape, parameters: tuple[int, ...]) -> extents.Geometry | None:
    return codings.geometry(scheme.coding, coded_shape(scheme, shape, parameters))


@lru_cache(1024)
def layout(scheme: Scheme, shape: Shape, parameters: tuple[int, ...] = ()) -> Extent:
    """Where every role lies."""
    return extents.layout(roles(scheme, shape, parameters), _geometry(scheme, shape, parameters))


def pack(
    scheme: Scheme, shape: Shape, arrays: Mapping[str, NDArray[Any]], parameters: tuple[int, ...] = ()
) -> NDArray[np.uint8]:
    """The canonical bytes of an extent."""
    return extents.pack(roles(scheme, shape, parameters), _geometry(scheme, shape, parameters), arrays)


def parts(scheme: Scheme, shape: Shape, parameters: tuple[int, ...], buffer: Buffer) -> dict[str, Part]:
    """Every role of an extent, unread."""
    return extents.parts(roles(scheme, shape, parameters), _geometry(scheme, shape, parameters), buffer)


def unpack(scheme: Scheme, shape: Shape, parameters: tuple[int, ...], buffer: Buffer) -> dict[str, NDArray[Any]]:
    """Every role of an extent as an array. Inverse of `pack`."""
    return {name: whole(part) for name, part in parts(scheme, shape, parameters, buffer).items()}


# -- decoding ----------------------------------------------------------------------------------------------------------


def _under(arrays: Arrays, prefix: str) -> Arrays:
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{prefix}.")}


def mixes_columns(scheme: Scheme) -> bool:
    """Whether one column of W needs more than one column of the coded matrix."""
    return any(isinstance(transform, Hadamard | Rotate | Reassemble) for transform in scheme.transforms)


def mixes_rows(scheme: Scheme) -> bool:
    """Whether one row of W is a sum over rows of the coded matrix."""
    return any(isinstance(transform, Hadamard | Rotate) for transform in scheme.output_transforms)


def row_local(scheme: Scheme) -> bool:
    """Whether row i of W needs row i of the coded matrix and no other."""
    return all(isinstance(transform, Scale) for transform in scheme.output_transforms)


def decode(
    scheme: Scheme,
    shape: Shape,
    arrays: Arrays,
    window: Window | None = None,
    parameters: tuple[int, ...] = (),
    coded: DecodeCoded = codings.decode,
) -> NDArray[np.float32]:
    """The float32 matrix W (N, K), or a rectangle of it, transforms and corrections included.

    All steps are float32: the coded matrix, Tₘ … T₁, Oₙ … O₁, then the corrections in their order.

    Args:
        coded: what decodes the coded matrix, to the numbers that `codings.decode` gives.
    """
    window = window or Window(0, shape[0], 0, shape[1])
    sizes = _sizes(scheme, shape, parameters)
    if 0 in window.shape:
        return np.zeros(window.shape, np.float32)
    top, bottom = window[:2] if row_local(scheme) else (0, shape[0])
    left, right = (0, sizes.coded[1]) if scheme.transforms else window[2:]
    with np.errstate(over="ignore", invalid="ignore"):
        matrix = coded(scheme.coding, sizes.coded, arrays, Window(top, bottom, left, right))
        for number in reversed(range(len(scheme.transforms))):
            its = _under(arrays, f"transforms.{number}")
            matrix = transforms.multiply(matrix, scheme.transforms[number], its, sizes.transforms[number][0])
        if scheme.transforms:
            matrix = matrix[:, window.left : window.right]
        for number in reversed(range(len(scheme.output_transforms))):
            transform, its = scheme.output_transforms[number], _under(arrays, f"output_transforms.{number}")
            if row_local(scheme):
                its = {"scales": elements(its["scales"], top, bottom)}
            matrix = transforms.multiply(matrix.T, transform, its, len(matrix)).T
        if not row_local(scheme):
            matrix = matrix[window.top : window.bottom]
        matrix = np.ascontiguousarray(matrix)
        for number, correction in enumerate(scheme.corrections):
            matrix = corrections.add(matrix, correction, _under(arrays, f"corrections.{number}"), window)
    return np.ascontiguousarray(matrix)


@np.errstate(over="ignore", invalid="ignore")  # some tables have infinities
def matvec(
    scheme: Scheme, shape: Shape, arrays: Arrays, x: NDArray[Any], parameters: tuple[int, ...] = ()
) -> NDArray[np.float64]:
    """The reference y = W x in float64 for x (batch, K): each part acts as the grammar says; y (batch, N)."""
    sizes = _sizes(scheme, shape, parameters)
    vector = x.astype(np.float64)
    for number, transform in enumerate(scheme.transforms):
        its = _under(arrays, f"transforms.{number}")
        vector = transforms.apply(transform, its, vector, sizes.transforms[number][1])
    coded = codings.decode(scheme.coding, sizes.coded, arrays).astype(np.float64)
    y = vector @ coded.T
    for number in reversed(range(len(scheme.output_transforms))):
        y = transforms.multiply(
            y, scheme.output_transforms[number], _under(arrays, f"output_transforms.{number}"), shape[0]
        )
    everything = Window(0, shape[0], 0, shape[1])
    for number, correction in enumerate(scheme.corrections):
        its = _under(arrays, f"corrections.{number}")
        y = y + x.astype(np.float64) @ corrections.add(np.zeros(shape), correction, its, everything).T
    return np.asarray(y, np.float64)


# -- checking ----------------------------------------------------------------------------------------------------------

# Arrays that index something or multiply everything: small, copied before they are checked, used from the copy.
_GUARDED = ("indices", "signs", "row_pointers", "columns", "groups", "table", "codebooks")


def secure(scheme: Scheme, shape: Shape, parameters: tuple[int, ...], arrays: Arrays) -> dict[str, NDArray[Any] | Part]:
    """The same arrays, with all that index something replaced by checked private copies.

    A file that changes under its mapping cannot change what was checked. This is what decoding and kernels need to be
    safe; `check` looks at the rest.

    Raises:
        InvalidFileError: `field` is the role.
    """
    held = {
        name: _private(whole(array)) if name.rsplit(".", 1)[-1] in _GUARDED or _is_transform(name) else array
        for name, array in arrays.items()
    }
    sizes = _sizes(scheme, shape, parameters)
    for number, (transform, (before, _, _)) in enumerate(zip(scheme.transforms, sizes.transforms, strict=True)):
        transforms.check(transform, f"transforms.{number}", held, before)
    for number, transform in enumerate(scheme.output_transforms):
        transforms.check(transform, f"output_transforms.{number}", held, shape[0])
    for number, correction in enumerate(scheme.corrections):
        corrections.check_indices(correction, f"corrections.{number}", held, shape[1])
    codings.check_indices(scheme.coding, sizes.coded, held)
    return held


def _private(array: NDArray[Any]) -> NDArray[Any]:
    copy = np.array(array)
    copy.setflags(write=False)  # `arrays()` hands it out, and it has been checked
    return copy


def _is_transform(name: str) -> bool:
    return name.startswith(("transforms.", "output_transforms."))


def check(scheme: Scheme, shape: Shape, arrays: Arrays, parameters: tuple[int, ...] = ()) -> None:
    """Every value that must be in range or finite is.

    Raises:
        InvalidFileError: `field` is the role.
    """
    held = secure(scheme, shape, parameters, arrays)
    for number, correction in enumerate(scheme.corrections):
        corrections.check_numbers(correction, f"corrections.{number}", held)
    codings.check_numbers(scheme.coding, coded_shape(scheme, shape, parameters), held)


def check_padding(scheme: Scheme, shape: Shape, parameters: tuple[int, ...], buffer: Buffer) -> None:
    """Bytes and bits between and after the roles of an extent are zero."""
    extents.check_padding(roles(scheme, shape, parameters), _geometry(scheme, shape, parameters), buffer)
