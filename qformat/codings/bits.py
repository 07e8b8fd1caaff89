"""Bit fields: the only module that shifts.

Two ways to lay small integers into bytes: a *stream* (least significant bit first, no gaps) and *planes* of dwords, as
a dot-product instruction eats them. Everything here works on unsigned integers; signs are an offset, added elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A width that does not divide eight is stored as planes that do; the low bits of a code are in the first, widest one.
PLANES: dict[int, tuple[int, ...]] = {
    1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,),
}  # fmt: skip


def stream_bytes(count: int, bits: int) -> int:
    """Bytes of a stream of `count` codes of `bits` bits."""
    return (count * bits + 7) // 8


def code_dtype(bits: int, signed: bool = False) -> str:
    """The storage type that holds one unpacked code."""
    return ("int" if signed else "uint") + ("8" if bits <= 8 else "16")


def pack_stream(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Codes (any shape, unsigned, below 2^bits, 1 ≤ bits ≤ 16) as an LSB-first stream; spare bits at the end are zero.

    >>> pack_stream(np.array([1, 2, 3], np.uint8), 4).tolist()
    [33, 3]
    """
    flat = np.ascontiguousarray(codes).reshape(-1)
    if bits == 8:
        return flat.astype(np.uint8)
    if bits == 16:
        return flat.astype("<u2").view(np.uint8)
    if bits < 8:  # eight codes are `bits` whole bytes of one uint64
        octets = np.zeros((-(-flat.size // 8), 8), np.uint8)
        octets.reshape(-1)[: flat.size] = flat
        words = np.zeros(len(octets), "<u8")
        for place in range(8):
            words |= octets[:, place].astype("<u8") << np.uint64(place * bits)
        packed = np.ascontiguousarray(words.view(np.uint8).reshape(-1, 8)[:, :bits]).reshape(-1)
    else:
        pairs = flat.astype("<u2").view(np.uint8).reshape(-1, 2)
        packed = np.packbits(np.unpackbits(pairs, axis=1, bitorder="little")[:, :bits].reshape(-1), bitorder="little")
    return packed[: stream_bytes(flat.size, bits)]


def unpack_stream(packed: NDArray[np.uint8], bits: int, count: int, skip: int = 0) -> NDArray[Any]:
    """`count` codes of a stream after the first `skip` (< 8); uint8 up to 8 bits, then uint16. Inverts pack."""
    total = skip + count
    if bits == 8:
        return packed[skip:total]
    if bits == 16:
        return packed[2 * skip : 2 * total].view("<u2")
    if bits < 8:
        padded = np.zeros((-(-total // 8), bits), np.uint8)
        padded.reshape(-1)[: stream_bytes(total, bits)] = packed[: stream_bytes(total, bits)]
        words = np.zeros((len(padded), 8), np.uint8)
        words[:, :bits] = padded
        wide = words.view("<u8").reshape(-1)
        octets = np.empty((len(padded), 8), np.uint8)
        mask = np.uint64((1 << bits) - 1)
        for place in range(8):
            octets[:, place] = (wide >> np.uint64(place * bits)) & mask
        return octets.reshape(-1)[skip:total]
    each = np.unpackbits(packed, count=total * bits, bitorder="little").reshape(total, bits)
    wide16 = np.zeros((total, 16), np.uint8)
    wide16[:, :bits] = each
    return np.packbits(wide16, axis=1, bitorder="little").reshape(-1).view("<u2")[skip:]


def spare_bits(last: int, count: int, bits: int) -> int:
    """The bits of a stream's last byte `last` that belong to no code: zero in a canonical stream."""
    used = (count * bits) % 8
    return last >> used if used else 0


def pack_dwords(codes: NDArray[np.uint8], bits: int) -> list[NDArray[Any]]:
    """Codes (..., run) as one array of dwords (..., columns) per plane.

    A plane of width w has ⌈run / (32/w)⌉ columns; byte k, bit field j of a dword holds input 4·j + k of its column.
    """
    planes, low = [], 0
    for width in PLANES[bits]:
        inputs = 32 // width
        columns = -(-codes.shape[-1] // inputs)
        plane = np.zeros((*codes.shape[:-1], columns * inputs), np.uint8)
        plane[..., : codes.shape[-1]] = (codes >> np.uint8(low)) & np.uint8((1 << width) - 1)
        fields = plane.reshape(*codes.shape[:-1], columns, 8 // width, 4)
        packed = np.zeros((*codes.shape[:-1], columns, 4), np.uint8)
        for field in range(8 // width):
            packed |= fields[..., field, :] << np.uint8(field * width)
        planes.append(packed.view("<u4").reshape(*codes.shape[:-1], columns))
        low += width
    return planes


def unpack_dwords(planes: list[NDArray[Any]], bits: int, run: int) -> NDArray[np.uint8]:
    """Inverse of `pack_dwords`: codes (..., run) from one array of dwords (..., columns) per plane."""
    codes, low = np.zeros((*planes[0].shape[:-1], run), np.uint8), 0
    for width, plane in zip(PLANES[bits], planes, strict=True):
        packed = np.ascontiguousarray(plane, dtype="<u4").view(np.uint8).reshape(*plane.shape, 4)
        fields = np.empty((*plane.shape, 8 // width, 4), np.uint8)
        for field in range(8 // width):
            fields[..., field, :] = (packed >> np.uint8(field * width)) & np.uint8((1 << width) - 1)
        # not reshape(..., -1): numpy cannot infer a side when another is zero
        flat = fields.reshape(*plane.shape[:-1], plane.shape[-1] * (32 // width))
        codes |= flat[..., :run] << np.uint8(low)
        low += width
    return codes


# Rows whose codes are looked up together: one code of each is one 64-byte register at 8 bits.
LANES = 64


def lane_planes(bits: int) -> tuple[int, ...]:
    """Widths of the planes of codes of 1 to 16 bits: whole bytes first, then as in PLANES."""
    return PLANES[bits] if bits <= 8 else (8, *PLANES[bits - 8])


def lane_bytes(bits: int) -> int:
    """Bytes of LANES codes."""
    return LANES * bits // 8


def pack_lanes(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Codes (..., LANES) as (..., lane_bytes): in a plane of w bits, field j of byte k holds lane j · 8·w + k."""
    pieces, low = [], 0
    for width in lane_planes(bits):
        plane = ((codes >> low) & ((1 << width) - 1)).astype(np.uint8)
        fields = plane.reshape(*codes.shape[:-1], 8 // width, 8 * width)
        packed = np.zeros((*codes.shape[:-1], 8 * width), np.uint8)
        for field in range(8 // width):
            packed |= fields[..., field, :] << np.uint8(field * width)
        pieces.append(packed)
        low += width
    return np.concatenate(pieces, axis=-1)


def unpack_lanes(packed: NDArray[np.uint8], bits: int) -> NDArray[Any]:
    """Inverse of `pack_lanes`: codes (..., LANES), uint8 up to 8 bits, else uint16."""
    codes = np.zeros((*packed.shape[:-1], LANES), code_dtype(bits))
    low = start = 0
    for width in lane_planes(bits):
        plane = packed[..., start : start + 8 * width]
        for field in range(8 // width):
            part = ((plane >> np.uint8(field * width)) & np.uint8((1 << width) - 1)).astype(codes.dtype)
            codes[..., field * 8 * width : (field + 1) * 8 * width] |= part << low
        start, low = start + 8 * width, low + width
    return codes
