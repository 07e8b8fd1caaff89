"""Extents: a table of roles laid into bytes, in the plain layout or with its codes in panels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat.codings import bits as bit
from qformat.codings import panel, tiles
from qformat.codings.grammar import Additive, Affine, Block, Coding, Dense, Lookup
from qformat.codings.panel import Inlaid, Panels
from qformat.codings.parts import Buffer, Extent, Part, Role, Stored, lay, stored_bytes
from qformat.codings.tiles import Tiled, Tiles
from qformat.dtypes import TABLE as DTYPES
from qformat.errors import InvalidFileError

Geometry = Panels | Tiles

# Arrays of numbers per group that lie beside the codes, in this order.
BESIDE = ("scales", "zeros", "offsets")


def validate_number(coding: Dense, field: str) -> None:
    """Numbers per group are floats or integers."""
    if coding.dtype in DTYPES and DTYPES[coding.dtype].kind == "other":
        raise InvalidFileError("neither float nor integer", field=f"{field}.dtype", found=coding.dtype)


def validate(coding: Coding, field: str) -> None:
    """Panels of affine and lookup codings need scales, in groups of one row and a multiple of 16 inputs."""
    if getattr(coding, "layout", "plain") != "panel" or isinstance(coding, Additive):
        return
    where = f"{field}.layout"
    if not isinstance(coding, Affine | Lookup):
        raise InvalidFileError("this coding has no panels", field=where)
    group = coding.group
    if not isinstance(group, Block) or group.rows != 1 or (group.columns is not None and group.columns % 16):
        expected = "blocks of one row and a multiple of 16 inputs"
        raise InvalidFileError("panels do not fit the groups", field=where, expected=expected)
    if coding.scales is None:
        raise InvalidFileError("panels need scales", field=where)


def geometry(coding: Coding, shape: tuple[int, int], roles: Mapping[str, Role]) -> Geometry | None:
    """The geometry of the panels of a coding with these roles; None in the plain layout."""
    if getattr(coding, "layout", "plain") != "panel":
        return None
    if isinstance(coding, Additive):
        return Tiles(roles["codes"])
    assert isinstance(coding, Affine | Lookup)
    assert isinstance(coding.group, Block)
    named = [name if name in roles else f"{name}.codes" for name in BESIDE]
    beside = {name: roles[name] for name in named if name in roles}
    return Panels(shape, coding.group.columns or max(shape[1], 1), "codes", roles["codes"], beside)


def layout(roles: Mapping[str, Role], panels: Geometry | None) -> Extent:
    """The roles one after the other in their order; those that are in the panels give way to one part, at the end."""
    if panels is None:
        return lay({name: role.nbytes for name, role in roles.items()})
    inside = {panels.codes, *panels.beside}
    sizes = {name: role.nbytes for name, role in roles.items() if name not in inside}
    return lay({**sizes, "panels": panels.nbytes})


def pack(roles: Mapping[str, Role], panels: Geometry | None, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """The canonical bytes of an extent."""
    unknown = sorted(set(arrays) - set(roles))
    if unknown:
        raise InvalidFileError("unknown array", field=unknown[0], expected=", ".join(roles))
    extent = layout(roles, panels)
    out = np.zeros(extent.length, np.uint8)
    for name, (offset, nbytes) in extent.places.items():
        if panels is not None and name == "panels":
            out[offset : offset + nbytes] = (
                tiles.pack(panels, arrays) if isinstance(panels, Tiles) else panel.pack(panels, arrays)
            )
        else:
            out[offset : offset + nbytes] = stored_bytes(name, roles[name], arrays)
    return out


def parts(roles: Mapping[str, Role], panels: Geometry | None, buffer: Buffer) -> dict[str, Part]:
    """Every role of an extent, unread."""
    places = layout(roles, panels).places
    found: dict[str, Part] = {}
    for name, role in roles.items():
        if name in places:
            found[name] = Stored(buffer, places[name], role)
        elif isinstance(panels, Tiles):
            found[name] = Tiled(buffer, places["panels"], panels)
        else:
            assert panels is not None
            found[name] = Inlaid(buffer, places["panels"], panels, name)
    return found


def check_padding(roles: Mapping[str, Role], panels: Geometry | None, buffer: Buffer) -> None:
    """Bytes between the parts, bits after the end of a stream and everything that pads a panel are zero."""
    end = 0
    for name, place in layout(roles, panels).places.items():
        gap = buffer[end : place.offset]
        if gap.any():
            at = end + int(np.flatnonzero(gap)[0])
            raise InvalidFileError("padding is not zero", field=name, offset=at)
        end = place.offset + place.nbytes
        if panels is not None and name == "panels":
            if isinstance(panels, Tiles):
                tiles.check(panels, place, buffer)
            else:
                panel.check(panels, place, buffer)
            continue
        role = roles[name]
        if role.bits is not None and place.nbytes:
            count = int(np.prod(role.shape, dtype=object))
            if bit.spare_bits(int(buffer[end - 1 : end][0]), count, role.bits):
                raise InvalidFileError("bits after the last code are not zero", field=name, offset=end - 1)
