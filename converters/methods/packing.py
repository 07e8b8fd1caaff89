"""Extents from arrays, fast: what `qformat.linear.pack` gives, byte for byte, by native loops.

`linear.pack` is the definition and the twin. Codes go into panels or bit streams here; everything else is copied.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qformat import linear
from qformat.codings import bits as bit
from qformat.codings import panel
from qformat.codings.panel import Panels
from qformat.codings.parts import Role, bias, conform
from qformat.converters.methods import native
from qformat.converters.methods.base import Array, Shape
from qformat.schemes import Scheme


def pack(scheme: Scheme, shape: Shape, arrays: Mapping[str, Array], parameters: tuple[int, ...] = ()) -> Array:
    """The canonical bytes of an extent, uint8 (length,).

    Raises:
        InvalidFileError: an array is missing, misshapen or of another dtype, or a code is out of range.
    """
    if native.active() == "reference" or set(arrays) != set(linear.roles(scheme, shape, parameters)):
        return linear.pack(scheme, shape, arrays, parameters)
    roles = linear.roles(scheme, shape, parameters)
    geometry = linear.panels(scheme, shape, parameters)
    extent = linear.layout(scheme, shape, parameters)
    out = np.zeros(extent.length, np.uint8)
    for name, (offset, nbytes) in extent.places.items():
        if nbytes == 0:
            continue
        if geometry is not None and name == "panels":
            pack_panels(geometry, arrays, out[offset : offset + nbytes])
        else:
            out[offset : offset + nbytes] = pack_role(name, roles[name], arrays)
    return out


def pack_panels(panels: Panels, arrays: Mapping[str, Array], out: Array) -> None:
    """Write the bytes of all panels to `out`, uint8 (panels.nbytes,); the twin is `qformat.codings.panel.pack`."""
    codes = conform(panels.codes, panels.code, arrays)
    beside = [(conform(name, role, arrays), role.bits or 0, _bias(role)) for name, role in panels.beside.items()]
    if native.active() == "reference":
        out[:] = panel.pack(panels, arrays)
    elif panels.nbytes:
        loop = native.loop("pack_panels", panel.pack)
        loop(codes, panels.group, panels.code.bits, panels.code.signed, beside, out)


def pack_role(name: str, role: Role, arrays: Mapping[str, Array]) -> Array:
    """The stored bytes of one array."""
    array = conform(name, role, arrays)
    return stream(array, role) if role.bits is not None else np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def stream(codes: Array, role: Role) -> Array:
    """Codes as a bit stream, least significant bit first; the twin is `qformat.codings.bits.pack_stream`."""
    if role.bits is None or role.bits > 8 or native.active() == "reference":
        return bit.pack_stream(bias(codes, role), role.bits or 8)
    packed: Array = native.loop("pack_stream", bit.pack_stream)(codes, role.bits, _bias(role))
    return packed


def _bias(role: Role) -> int:
    """What a signed code is stored with: code + bias, which in its low bits is an exclusive or."""
    return 2 ** (role.bits - 1) if role.signed and role.bits else 0
