"""A linear layer's weight: transforms of the input, a coding, transforms of the output, corrections.

    W = O₁ᵀ · … · Oₙᵀ · C · Tₘ · … · T₁  +  corrections          y = W x

C is the coded matrix, T₁ is the first transform that x meets, and O₁ the last that y meets: output transforms mirror
input transforms, the same data class means the transpose there. Corrections act on the layer's own x and y.

Every function takes `shape`, the matrix (N, K) that W is (`matrix_shape` of the tensor's), and `parameters`, the
numbers that depend on the data (non-zeros, rank), in the order in which transforms and corrections take them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, prod
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from qformat import codings
from qformat.codings import extents, tables
from qformat.codings.grammar import Coding, Frozen
from qformat.codings.panel import Panels
from qformat.codings.parts import Arrays, Buffer, Extent, Part, Role, Stored, Window, cut, whole
from qformat.dtypes import TABLE as DTYPES
from qformat.errors import InvalidFileError, LimitError, UnsupportedError

Shape = tuple[int, int]

PARAMETERS = 4
TRANSFORMS = 16


# -- the grammar -------------------------------------------------------------------------------------------------------


class Permute(Frozen, frozen=True, tag="permute", tag_field="transform"):
    """`x'[j] = x[indices[j]]` (act-order). Roles: indices uint32 (K,), a bijection."""


class Scale(Frozen, frozen=True, tag="scale", tag_field="transform"):
    """`x'[j] = x[j] · scales[j]` (AWQ, SmoothQuant, SINQ). Roles: scales (K,)."""

    dtype: str


class Hadamard(Frozen, frozen=True, tag="hadamard", tag_field="transform"):
    """`x' = H(signs · x) / √block` in blocks (QuIP#, arXiv 2402.04396 §3). Roles: signs int8 (K,) of ±1."""

    block: int


class Reassemble(Frozen, frozen=True, tag="reassemble", tag_field="transform"):
    """`x' = R x`, R (channels, K) CSR (QLLM, arXiv 2310.08041 §4.1: split and merged channels).

    Parameters: channels, non-zeros. Roles: row_pointers uint32 (channels + 1,), columns uint32, values float32.
    """


class LowRank(Frozen, frozen=True, tag="lowrank", tag_field="correction"):
    """`y += B (A x)`. Parameter: rank. Roles: a (rank, K), b (N, rank)."""

    dtype: str


class Outliers(Frozen, frozen=True, tag="outliers", tag_field="correction"):
    """`y += S x`, S (N, K) CSR. Parameter: non-zeros. Roles: row_pointers uint32 (N + 1,), columns uint32, values."""

    dtype: str


class OutlierColumns(Frozen, frozen=True, tag="outlier_columns", tag_field="correction"):
    """`y += V x[columns]`. Parameter: columns. Roles: columns uint32 (n,), rising; values (N, n)."""

    dtype: str


class Activations(Frozen, frozen=True):
    """A note for the runtime: how the activations that meet this weight may be rounded; decoding ignores it."""

    bits: int
    granularity: Literal["token", "tensor"] = "token"
    outlier_threshold: float | None = None


Transform = Permute | Scale | Hadamard | Reassemble
Correction = LowRank | Outliers | OutlierColumns


class Scheme(Frozen, frozen=True):
    """All that a file says about how a tensor decodes, but for the numbers that depend on its data."""

    coding: Coding
    transposed: bool = False
    transforms: tuple[Transform, ...] = ()
    output_transforms: tuple[Transform, ...] = ()
    corrections: tuple[Correction, ...] = ()
    activations: Activations | None = None
    method: str | None = None


# -- parsing -----------------------------------------------------------------------------------------------------------

_KNOWN = {
    "coding": {"dense", "affine", "lookup", "additive"},
    "group": {"block", "flat", "comb", "map"},
    "transform": {"permute", "scale", "hadamard", "reassemble"},
    "correction": {"lowrank", "outliers", "outlier_columns"},
    "layout": {"plain", "panel"},
    "table": {*tables.TABLE, *tables.STORED},
    "dtype": set(DTYPES),
}


def parse(document: object) -> Scheme:
    """The scheme that a JSON object describes, validated.

    Raises:
        UnsupportedError: a coding, grouping, transform, correction, layout, table or dtype that this version lacks.
        InvalidFileError: anything else that breaks the grammar; `field` is the path.
    """
    _refuse_unknown(document)
    try:
        scheme = msgspec.convert(document, Scheme, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidFileError(f"scheme breaks the grammar: {error}", field="scheme") from None
    validate(scheme)
    return scheme


def _refuse_unknown(document: object) -> None:
    """Names that a later version may know are reported as unsupported, not as damage."""
    pending: list[tuple[object, str, int]] = [(document, "scheme", 1)]
    while pending:
        node, path, depth = pending.pop()
        if depth > 2 * codings.DEPTH + 4:
            raise LimitError("scheme nests too deep", field=path)
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            where = f"{path}.{key}"
            known = _KNOWN.get(key) if isinstance(key, str) else None
            if known is not None and isinstance(value, str) and value not in known:
                raise UnsupportedError(f"unknown {key}", field=where, expected=", ".join(sorted(known)), found=value)
            if isinstance(value, dict | list):
                pending.append((value, where, depth + 1))


def dump(scheme: Scheme) -> dict[str, Any]:
    """The JSON object of a scheme, without defaults. Inverse of `parse`."""
    document: dict[str, Any] = msgspec.to_builtins(scheme)
    return document


def validate(scheme: Scheme) -> None:
    """Parameters make sense whatever the shape."""
    codings.validate(scheme.coding)
    for side in ("transforms", "output_transforms"):
        listed: tuple[Transform, ...] = getattr(scheme, side)
        if len(listed) > TRANSFORMS:
            raise LimitError("too many transforms", field=side, expected=f"at most {TRANSFORMS}", found=len(listed))
        for number, transform in enumerate(listed):
            where = f"{side}.{number}"
            if isinstance(transform, Scale):
                _float_dtype(transform.dtype, where)
            if isinstance(transform, Hadamard) and transform.block not in {2**power for power in range(25)}:
                raise InvalidFileError("block is not a power of two", field=f"{where}.block", found=transform.block)
            if isinstance(transform, Reassemble) and side == "output_transforms":
                raise InvalidFileError("reassemble transforms inputs only", field=where)
    for number, correction in enumerate(scheme.corrections):
        _float_dtype(correction.dtype, f"corrections.{number}")
    wanted = sum(2 if isinstance(node, Reassemble) else 0 for node in scheme.transforms) + len(scheme.corrections)
    if wanted > PARAMETERS:
        raise InvalidFileError("more than four parameters", field="corrections", found=wanted)
    if scheme.activations is not None:
        threshold = scheme.activations.outlier_threshold
        if not 1 <= scheme.activations.bits <= 16:
            raise InvalidFileError("bits out of range", field="activations.bits", found=scheme.activations.bits)
        if threshold is not None and not (isfinite(threshold) and threshold >= 0):
            raise InvalidFileError("threshold out of range", field="activations.outlier_threshold", found=threshold)


def _float_dtype(dtype: str, field: str) -> None:
    if dtype not in DTYPES:
        raise UnsupportedError("unknown dtype", field=f"{field}.dtype", found=dtype)
    if DTYPES[dtype].kind != "float":
        raise InvalidFileError("not a float dtype", field=f"{field}.dtype", found=dtype)


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
    transforms = []
    for number, transform in enumerate(scheme.transforms):
        after, nonzeros = width, 0
        if isinstance(transform, Reassemble):
            after = take(f"transforms.{number}: channels", (2**48 - 1) // max(rows, 1), 1)
            nonzeros = take(f"transforms.{number}: non-zeros", min(after * width, 2**32 - 1))
        transforms.append((width, after, nonzeros))
        width = after
    bounds = {
        LowRank: ("rank", min(shape)),
        Outliers: ("non-zeros", min(prod(shape), 2**32 - 1)),
        OutlierColumns: ("columns", shape[1]),
    }
    corrections = []
    for number, correction in enumerate(scheme.corrections):
        name, most = bounds[type(correction)]
        corrections.append(take(f"corrections.{number}: {name}", most))
    spare = [value for value in left if value]
    if spare:
        raise InvalidFileError("more parameters than the scheme has", field="parameters", found=parameters)
    return _Sizes(transforms, corrections, (rows, width))


def coded_shape(scheme: Scheme, shape: Shape, parameters: tuple[int, ...] = ()) -> Shape:
    """The shape of the coded matrix: it differs from W's only if channels are reassembled."""
    return _sizes(scheme, shape, parameters).coded


# -- roles and bytes ---------------------------------------------------------------------------------------------------


def _transform_roles(transform: Transform, before: int, after: int, nonzeros: int) -> dict[str, Role]:
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
            return {"signs": Role("int8", (before,))}
        case Reassemble():
            return _csr_roles(after, nonzeros, "float32")


def _csr_roles(rows: int, nonzeros: int, dtype: str) -> dict[str, Role]:
    return {
        "row_pointers": Role("uint32", (rows + 1,)),
        "columns": Role("uint32", (nonzeros,)),
        "values": Role(dtype, (nonzeros,)),
    }


def _correction_roles(correction: Correction, shape: Shape, number: int) -> dict[str, Role]:
    dtype = correction.dtype
    match correction:
        case LowRank():
            return {"a": Role(dtype, (number, shape[1])), "b": Role(dtype, (shape[0], number))}
        case Outliers():
            return _csr_roles(shape[0], number, dtype)
        case OutlierColumns():
            return {"columns": Role("uint32", (number,)), "values": Role(dtype, (shape[0], number))}


def roles(scheme: Scheme, shape: Shape, parameters: tuple[int, ...] = ()) -> dict[str, Role]:
    """Every array of a weight in the order of the extent: transforms, output transforms, corrections, the coding."""
    sizes = _sizes(scheme, shape, parameters)
    found: dict[str, Role] = {}
    for number, (transform, size) in enumerate(zip(scheme.transforms, sizes.transforms, strict=True)):
        found |= _named(f"transforms.{number}", _transform_roles(transform, *size))
    for number, transform in enumerate(scheme.output_transforms):
        found |= _named(f"output_transforms.{number}", _transform_roles(transform, shape[0], shape[0], 0))
    for number, (correction, size_of) in enumerate(zip(scheme.corrections, sizes.corrections, strict=True)):
        found |= _named(f"corrections.{number}", _correction_roles(correction, shape, size_of))
    return found | codings.roles(scheme.coding, sizes.coded)


def _named(prefix: str, its_roles: Mapping[str, Role]) -> dict[str, Role]:
    return {f"{prefix}.{name}": role for name, role in its_roles.items()}


def panels(scheme: Scheme, shape: Shape, parameters: tuple[int, ...] = ()) -> Panels | None:
    """The geometry of the coding's panels, or None in the plain layout."""
    return codings.panels(scheme.coding, coded_shape(scheme, shape, parameters))


def layout(scheme: Scheme, shape: Shape, parameters: tuple[int, ...] = ()) -> Extent:
    """Where every role lies."""
    return extents.layout(roles(scheme, shape, parameters), panels(scheme, shape, parameters))


def pack(
    scheme: Scheme, shape: Shape, arrays: Mapping[str, NDArray[Any]], parameters: tuple[int, ...] = ()
) -> NDArray[np.uint8]:
    """The canonical bytes of an extent."""
    return extents.pack(roles(scheme, shape, parameters), panels(scheme, shape, parameters), arrays)


def parts(scheme: Scheme, shape: Shape, parameters: tuple[int, ...], buffer: Buffer) -> dict[str, Part]:
    """Every role of an extent, unread."""
    return extents.parts(roles(scheme, shape, parameters), panels(scheme, shape, parameters), buffer)


def unpack(scheme: Scheme, shape: Shape, parameters: tuple[int, ...], buffer: Buffer) -> dict[str, NDArray[Any]]:
    """Every role of an extent as an array. Inverse of `pack`."""
    return {name: whole(part) for name, part in parts(scheme, shape, parameters, buffer).items()}


# -- decoding ----------------------------------------------------------------------------------------------------------


def _under(arrays: Arrays, prefix: str) -> Arrays:
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{prefix}.")}


def _run(array: NDArray[Any] | Part, start: int, stop: int) -> NDArray[Any]:
    """Elements [start, stop) of a 1-D role."""
    return array.run(start, stop) if isinstance(array, Stored) else whole(array)[start:stop]


def hadamard(x: NDArray[Any], block: int) -> NDArray[Any]:
    """Blocks of the last dimension times the Hadamard matrix of Sylvester, unscaled.

    Butterflies with distance 1, 2, 4, …: (a, b) becomes (a + b, a − b), rounded in the dtype of x.
    """
    out, distance = x, 1
    while distance < block:
        pairs = out.reshape(*x.shape[:-1], x.shape[-1] // (2 * distance), 2, distance)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        out = np.stack([first + second, first - second], axis=-2).reshape(x.shape)
        distance *= 2
    return out


def _rows_of(pointers: NDArray[Any]) -> NDArray[np.intp]:
    """The row of each non-zero of a CSR matrix."""
    wide = pointers.astype(np.int64)
    return np.repeat(np.arange(len(pointers) - 1), wide[1:] - wide[:-1])


def _multiply(matrix: NDArray[Any], transform: Transform, arrays: Arrays, before: int) -> NDArray[Any]:
    """matrix (n, after) · T as (n, before), each step rounded in the matrix's dtype."""
    match transform:
        case Permute():
            out = np.empty_like(matrix)
            out[:, whole(arrays["indices"])] = matrix
            return out
        case Scale():
            return np.asarray(matrix * whole(arrays["scales"]).astype(matrix.dtype))
        case Hadamard():
            scaled = hadamard(matrix, transform.block) * matrix.dtype.type(1 / np.sqrt(transform.block))
            return np.asarray(scaled * whole(arrays["signs"]).astype(matrix.dtype))
        case Reassemble():
            out = np.zeros((len(matrix), before), matrix.dtype)
            values = whole(arrays["values"]).astype(matrix.dtype)
            rows = _rows_of(whole(arrays["row_pointers"]))
            np.add.at(out.T, whole(arrays["columns"]), (matrix[:, rows] * values).T)  # in the order of the non-zeros
            return out


def _correct(matrix: NDArray[Any], correction: Correction, arrays: Arrays, window: Window) -> NDArray[Any]:
    """A rectangle of W plus the same rectangle of a correction."""
    dtype = matrix.dtype
    top, bottom, left, right = window
    match correction:
        case LowRank():
            a = whole(arrays["a"])[:, left:right].astype(dtype)
            b = cut(arrays["b"], Window(top, bottom, 0, len(a))).astype(dtype)
            product = np.zeros_like(matrix)
            for r in range(len(a)):  # in this order, not in the one that a matrix product would choose
                product += b[:, r, None] * a[r]
            return np.asarray(matrix + product)
        case Outliers():
            pointers = whole(arrays["row_pointers"])[top : bottom + 1].astype(np.int64)
            start, stop = int(pointers[0]), int(pointers[-1])
            rows, columns = _rows_of(pointers), whole(arrays["columns"])[start:stop].astype(np.int64)
            inside = (columns >= left) & (columns < right)
            values = _run(arrays["values"], start, stop).astype(dtype)
            matrix[rows[inside], columns[inside] - left] += values[inside]
            return matrix
        case OutlierColumns():
            columns = whole(arrays["columns"]).astype(np.int64)
            first, last = np.searchsorted(columns, [left, right])
            values = cut(arrays["values"], Window(top, bottom, int(first), int(last))).astype(dtype)
            matrix[:, columns[first:last] - left] += values
            return matrix


def mixes_columns(scheme: Scheme) -> bool:
    """Whether one column of W needs more than one column of the coded matrix."""
    return any(isinstance(transform, Hadamard | Reassemble) for transform in scheme.transforms)


def mixes_rows(scheme: Scheme) -> bool:
    """Whether one row of W needs other rows of the coded matrix."""
    return any(not isinstance(transform, Scale) for transform in scheme.output_transforms)


def decode(
    scheme: Scheme,
    shape: Shape,
    arrays: Arrays,
    window: Window | None = None,
    parameters: tuple[int, ...] = (),
) -> NDArray[np.float32]:
    """The float32 matrix W (N, K), or a rectangle of it, transforms and corrections included.

    All steps are float32: the coded matrix, Tₘ … T₁, Oₙ … O₁, then the corrections in their order.
    """
    window = window or Window(0, shape[0], 0, shape[1])
    sizes = _sizes(scheme, shape, parameters)
    if 0 in window.shape:
        return np.zeros(window.shape, np.float32)
    top, bottom = (0, shape[0]) if mixes_rows(scheme) else window[:2]
    left, right = (0, sizes.coded[1]) if scheme.transforms else window[2:]
    with np.errstate(over="ignore", invalid="ignore"):
        matrix = codings.decode(scheme.coding, sizes.coded, arrays, Window(top, bottom, left, right))
        for number in reversed(range(len(scheme.transforms))):
            its = _under(arrays, f"transforms.{number}")
            matrix = _multiply(matrix, scheme.transforms[number], its, sizes.transforms[number][0])
        if scheme.transforms:
            matrix = matrix[:, window.left : window.right]
        for number in reversed(range(len(scheme.output_transforms))):
            transform, its = scheme.output_transforms[number], _under(arrays, f"output_transforms.{number}")
            if isinstance(transform, Scale) and not mixes_rows(scheme):
                its = {"scales": _run(its["scales"], top, bottom)}
            matrix = _multiply(matrix.T, transform, its, len(matrix)).T
        if mixes_rows(scheme):
            matrix = matrix[window.top : window.bottom]
        matrix = np.ascontiguousarray(matrix)
        for number, correction in enumerate(scheme.corrections):
            matrix = _correct(matrix, correction, _under(arrays, f"corrections.{number}"), window)
    return np.ascontiguousarray(matrix)


def matvec(
    scheme: Scheme, shape: Shape, arrays: Arrays, x: NDArray[Any], parameters: tuple[int, ...] = ()
) -> NDArray[np.float64]:
    """The reference y = W x in float64 for x (batch, K): each part acts as the grammar says; y (batch, N)."""
    sizes = _sizes(scheme, shape, parameters)
    vector = x.astype(np.float64)
    for number, transform in enumerate(scheme.transforms):
        its = _under(arrays, f"transforms.{number}")
        vector = _apply(transform, its, vector, sizes.transforms[number][1])
    coded = codings.decode(scheme.coding, sizes.coded, arrays).astype(np.float64)
    y = vector @ coded.T
    for number in reversed(range(len(scheme.output_transforms))):
        y = _multiply(y, scheme.output_transforms[number], _under(arrays, f"output_transforms.{number}"), shape[0])
    everything = Window(0, shape[0], 0, shape[1])
    for number, correction in enumerate(scheme.corrections):
        its = _under(arrays, f"corrections.{number}")
        y = y + x.astype(np.float64) @ _correct(np.zeros(shape), correction, its, everything).T
    return np.asarray(y, np.float64)


def _apply(transform: Transform, arrays: Arrays, x: NDArray[Any], after: int) -> NDArray[Any]:
    """T x for x (batch, before), float64."""
    match transform:
        case Permute():
            return np.asarray(x[:, whole(arrays["indices"])])
        case Scale():
            return np.asarray(x * whole(arrays["scales"]).astype(np.float64))
        case Hadamard():
            return np.asarray(hadamard(x * whole(arrays["signs"]), transform.block) / np.sqrt(transform.block))
        case Reassemble():
            out = np.zeros((len(x), after))
            values = whole(arrays["values"]).astype(np.float64)
            np.add.at(out.T, _rows_of(whole(arrays["row_pointers"])), (x[:, whole(arrays["columns"])] * values).T)
            return out


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
        name: np.array(whole(array)) if name.rsplit(".", 1)[-1] in _GUARDED or _is_transform(name) else array
        for name, array in arrays.items()
    }
    sizes = _sizes(scheme, shape, parameters)
    for number, (transform, (before, _, _)) in enumerate(zip(scheme.transforms, sizes.transforms, strict=True)):
        _check_transform(transform, f"transforms.{number}", held, before)
    for number, transform in enumerate(scheme.output_transforms):
        _check_transform(transform, f"output_transforms.{number}", held, shape[0])
    for number, correction in enumerate(scheme.corrections):
        where = f"corrections.{number}"
        if isinstance(correction, Outliers):
            _check_csr(where, held, shape[1])
        if isinstance(correction, OutlierColumns):
            _check_columns(where, whole(held[f"{where}.columns"]).astype(np.int64), shape[1])
    codings.check_indices(scheme.coding, sizes.coded, held)
    return held


def _is_transform(name: str) -> bool:
    return name.startswith(("transforms.", "output_transforms."))


def _check_transform(transform: Transform, where: str, arrays: Arrays, side: int) -> None:
    match transform:
        case Permute():
            indices = whole(arrays[f"{where}.indices"]).astype(np.int64)
            seen = np.zeros(side, bool)
            seen[indices[indices < side]] = True
            if not seen.all():
                missing = int(np.flatnonzero(~seen)[0])
                raise InvalidFileError(f"not a permutation: {missing} is missing", field=f"{where}.indices")
        case Scale():
            _check_finite(f"{where}.scales", arrays)
        case Hadamard():
            signs = whole(arrays[f"{where}.signs"])
            if not (np.abs(signs.astype(np.int16)) == 1).all():
                raise InvalidFileError("signs are not ±1", field=f"{where}.signs")
        case Reassemble():
            _check_csr(where, arrays, side)
            _check_finite(f"{where}.values", arrays)


def _check_csr(where: str, arrays: Arrays, side: int) -> None:
    """Pointers rise from 0 to the number of non-zeros; columns rise within a row and stay below `side`."""
    pointers, columns = whole(arrays[f"{where}.row_pointers"]), whole(arrays[f"{where}.columns"]).astype(np.int64)
    field = f"{where}.row_pointers"
    if int(pointers[0]) != 0 or int(pointers[-1]) != len(columns):
        found = f"{int(pointers[0])} to {int(pointers[-1])}"
        raise InvalidFileError(
            "row pointers do not span the non-zeros", field=field, expected=len(columns), found=found
        )
    if (pointers[1:] < pointers[:-1]).any():
        raise InvalidFileError("row pointers fall", field=field)
    _check_columns(where, columns, side, _rows_of(pointers))


def _check_columns(where: str, columns: NDArray[Any], side: int, rows: NDArray[Any] | None = None) -> None:
    """Columns rise (within a row) and stay below `side`."""
    field = f"{where}.columns"
    if columns.size and int(columns.max()) >= side:
        raise InvalidFileError("column out of range", field=field, expected=f"below {side}", found=int(columns.max()))
    falls = columns[1:] <= columns[:-1]
    if rows is not None:
        falls &= rows[1:] == rows[:-1]
    if falls.any():
        raise InvalidFileError(f"columns do not rise at entry {int(np.flatnonzero(falls)[0]) + 1}", field=field)


def _check_finite(field: str, arrays: Arrays) -> None:
    if not np.isfinite(whole(arrays[field]).astype(np.float64)).all():
        raise InvalidFileError("not finite", field=field)


def check(scheme: Scheme, shape: Shape, arrays: Arrays, parameters: tuple[int, ...] = ()) -> None:
    """Every value that must be in range or finite is.

    Raises:
        InvalidFileError: `field` is the role.
    """
    held = secure(scheme, shape, parameters, arrays)
    for number, correction in enumerate(scheme.corrections):
        for name in ("a", "b") if isinstance(correction, LowRank) else ("values",):
            _check_finite(f"corrections.{number}.{name}", held)
    codings.check(scheme.coding, coded_shape(scheme, shape, parameters), held)


def check_padding(scheme: Scheme, shape: Shape, parameters: tuple[int, ...], buffer: Buffer) -> None:
    """Bytes and bits between and after the roles of an extent are zero."""
    extents.check_padding(roles(scheme, shape, parameters), panels(scheme, shape, parameters), buffer)
