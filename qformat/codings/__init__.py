"""Codings: how stored numbers decode to a matrix of float32.

`TABLE` has one row a coding. The functions here put a coding and its nested codings together: the array of each nested
role is called after its path ("scales.codes"), and that of a nested `dense` after its parent's name ("scales").

All take `shape`, the coded matrix (N, K), and `arrays`, a mapping role → array (or a part of an extent that has not
been read yet).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat.codings import additive, affine, dense, extents, groups, lattice, lookup, split, trellis
from qformat.codings.grammar import Additive, Affine, Coding, Dense, Lattice, Lookup, Split, Trellis
from qformat.codings.groups import Span
from qformat.codings.panel import Panels
from qformat.codings.parts import Arrays, Buffer, Extent, Role, Window, whole, within
from qformat.codings.protocol import Child, Module
from qformat.errors import InvalidFileError

TABLE: dict[type, Module] = {
    Dense: dense, Affine: affine, Lookup: lookup, Additive: additive, Lattice: lattice, Trellis: trellis, Split: split,
}  # fmt: skip

# What the numbers of groups may be coded as, and what runs of columns may.
_NUMBERS = Dense | Affine | Lookup
_PARTS = _NUMBERS | Additive | Lattice | Trellis

DEPTH = 4

Shape = tuple[int, int]


def join(name: str, role: str) -> str:
    """What a role of the nested coding `name` is called."""
    return name if role == "values" else f"{name}.{role}"


def child_arrays(arrays: Arrays, name: str) -> Arrays:
    """The arrays of the nested coding `name`, by its own names of them."""
    if name in arrays:
        return {"values": arrays[name]}
    return {key[len(name) + 1 :]: array for key, array in arrays.items() if key.startswith(f"{name}.")}


def validate(coding: Coding, field: str = "coding", depth: int = 1) -> None:
    """The parameters of a coding and of all nested in it make sense, whatever the shape.

    Raises:
        InvalidFileError: a number out of range, or parts that do not go together; `field` is its path.
        UnsupportedError: a table or dtype that this version does not know.
    """
    if depth > DEPTH:
        raise InvalidFileError("codings nest too deep", field=field, expected=f"at most {DEPTH}")
    TABLE[type(coding)].validate(coding, field)
    for name, child in TABLE[type(coding)].children(coding, (1, 1)).items():
        where = f"{field}.{name}"
        if not isinstance(child.coding, _PARTS if _is_part(child) else _NUMBERS):
            found = type(child.coding).__struct_config__.tag
            raise InvalidFileError("this coding cannot be nested here", field=where, found=found)
        if getattr(child.coding, "layout", "plain") != "plain":
            raise InvalidFileError("only the outermost coding can be in panels", field=f"{where}.layout")
        if isinstance(child.coding, Dense):
            extents.validate_number(child.coding, where)
        validate(child.coding, where, depth + 1)
    extents.validate(coding, field)


def _is_part(child: Child) -> bool:
    """Whether a nested coding is of weights, not of numbers that groups of them share."""
    return isinstance(child.group, Span)


def roles(coding: Coding, shape: Shape) -> dict[str, Role]:
    """Every array of a coding, nested ones included, `codes` last."""
    module = TABLE[type(coding)]
    own = module.roles(coding, shape)
    codes: dict[str, Role] = {name: own.pop(name) for name in ("codes", "values") if name in own}
    nested: dict[str, Role] = {}
    for name, child in module.children(coding, shape).items():
        with within(name):
            its_roles = roles(child.coding, groups.array_shape(child.group, shape))
        nested |= {join(name, role): value for role, value in its_roles.items()}
    return {**own, **nested, **codes}


def geometry(coding: Coding, shape: Shape) -> extents.Geometry | None:
    """The geometry of the panels of any coding, or None in the plain layout."""
    return extents.geometry(coding, shape, roles(coding, shape))


def panels(coding: Coding, shape: Shape) -> Panels | None:
    """The geometry of the panels of an affine or lookup coding, or None."""
    found = geometry(coding, shape)
    return found if isinstance(found, Panels) else None


def layout(coding: Coding, shape: Shape) -> Extent:
    """Where every role lies."""
    return extents.layout(roles(coding, shape), geometry(coding, shape))


def pack(coding: Coding, shape: Shape, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """The canonical bytes of an extent; InvalidFileError if an array is missing or misshapen or a code too large."""
    return extents.pack(roles(coding, shape), geometry(coding, shape), arrays)


def parts(coding: Coding, shape: Shape, buffer: Buffer) -> Arrays:
    """Every role of an extent, unread: `decode` of a rectangle then reads only its rows."""
    return extents.parts(roles(coding, shape), geometry(coding, shape), buffer)


def unpack(coding: Coding, shape: Shape, buffer: Buffer) -> dict[str, NDArray[Any]]:
    """Every role of an extent as an array (a view where that is possible). Inverse of `pack`."""
    return {name: whole(part) for name, part in parts(coding, shape, buffer).items()}


def decode(coding: Coding, shape: Shape, arrays: Arrays, window: Window | None = None) -> NDArray[np.float32]:
    """The float32 matrix (N, K), or a rectangle of it.

    Raises:
        InvalidFileError: a scale, zero or offset that is used is not finite.
    """
    window = window or Window(0, shape[0], 0, shape[1])
    if 0 in window.shape:
        return np.zeros(window.shape, np.float32)
    module = TABLE[type(coding)]
    children = module.children(coding, shape)
    group_map = whole(arrays["groups"]) if "groups" in arrays else None

    def spread(name: str) -> NDArray[np.float32]:
        child = children[name]
        return groups.spread(child.group, shape, window, _decode_shared(child, name, shape, arrays, window), group_map)

    with np.errstate(over="ignore", invalid="ignore"):  # products beyond float32 are infinities, as the spec says
        return np.ascontiguousarray(module.decode(coding, shape, arrays, window, spread))


def _decode_shared(child: Child, name: str, shape: Shape, arrays: Arrays, window: Window) -> NDArray[np.float32]:
    its_shape, its_window = groups.array_shape(child.group, shape), groups.window(child.group, shape, window)
    with within(name):
        numbers = decode(child.coding, its_shape, child_arrays(arrays, name), its_window)
    if not _is_part(child) and not np.isfinite(numbers).all():
        raise InvalidFileError("not finite", field=name)
    return numbers


def decode_shared(coding: Coding, shape: Shape, arrays: Arrays, name: str, window: Window) -> NDArray[np.float32]:
    """The numbers of a nested role ("scales", "zeros", …) of the groups that a rectangle meets, of `groups.window`.

    Raises:
        InvalidFileError: one of them is not finite.
    """
    return _decode_shared(TABLE[type(coding)].children(coding, shape)[name], name, shape, arrays, window)


def decode_child(
    coding: Coding, shape: Shape, arrays: Arrays, name: str, rows: range | None = None
) -> NDArray[np.float32]:
    """The numbers of a nested role ("scales", "zeros", …), one a group, as float32; of some rows only, if asked."""
    child = TABLE[type(coding)].children(coding, shape)[name]
    height, width = groups.array_shape(child.group, shape)
    window = Window(rows.start, rows.stop, 0, width) if rows is not None else Window(0, height, 0, width)
    return decode(child.coding, (height, width), child_arrays(arrays, name), window)


def check_indices(coding: Coding, shape: Shape, arrays: Arrays) -> None:
    """Values that index something are in range, tables are finite: what decoding needs to be safe."""
    module = TABLE[type(coding)]
    module.check(coding, shape, arrays)
    for name, child in module.children(coding, shape).items():
        with within(name):
            check_indices(child.coding, groups.array_shape(child.group, shape), child_arrays(arrays, name))


def check_numbers(coding: Coding, shape: Shape, arrays: Arrays) -> None:
    """Every scale, zero and offset is finite, the innermost first, a million at a time.

    Raises:
        InvalidFileError: `field` is the role.
    """
    for name, child in TABLE[type(coding)].children(coding, shape).items():
        rows, columns = groups.array_shape(child.group, shape)
        own = child_arrays(arrays, name)
        with within(name):
            check_numbers(child.coding, (rows, columns), own)
        if _is_part(child):
            continue
        across = min(columns, 1 << 20)
        down = max((1 << 20) // max(across, 1), 1)
        for top in range(0, rows, down):
            for left in range(0, columns, max(across, 1)):
                window = Window(top, min(top + down, rows), left, min(left + across, columns))
                numbers = decode(child.coding, (rows, columns), own, window)
                if not np.isfinite(numbers).all():
                    row, column = (int(i) for i in np.argwhere(~np.isfinite(numbers))[0])
                    place = f"group ({top + row}, {left + column})"
                    raise InvalidFileError(f"not finite in {place}", field=name, found=numbers[row, column])


def check_padding(coding: Coding, shape: Shape, buffer: Buffer) -> None:
    """Bytes and bits between and after the roles of an extent are zero."""
    extents.check_padding(roles(coding, shape), geometry(coding, shape), buffer)
