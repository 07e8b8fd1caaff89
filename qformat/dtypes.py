"""The storage types: one literal table, name → id in the file, bits, numpy type.

Names are numpy's (and ml_dtypes'), ids are promises: never reused, never changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from qformat.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np


class DType(NamedTuple):
    """One storage type: its id in the file and its size in bits."""

    id: int
    bits: int
    kind: str  # "float", "int" or "other"


TABLE: dict[str, DType] = {
    "float64": DType(1, 64, "float"),
    "float32": DType(2, 32, "float"),
    "float16": DType(3, 16, "float"),
    "bfloat16": DType(4, 16, "float"),
    "float8_e4m3fn": DType(5, 8, "float"),
    "float8_e5m2": DType(6, 8, "float"),
    "float8_e8m0fnu": DType(7, 8, "float"),
    "int64": DType(16, 64, "int"),
    "int32": DType(17, 32, "int"),
    "int16": DType(18, 16, "int"),
    "int8": DType(19, 8, "int"),
    "uint64": DType(20, 64, "int"),
    "uint32": DType(21, 32, "int"),
    "uint16": DType(22, 16, "int"),
    "uint8": DType(23, 8, "int"),
    "bool": DType(24, 8, "other"),
    "complex64": DType(25, 64, "other"),
}

NAME_OF_ID: dict[int, str] = {row.id: name for name, row in TABLE.items()}

# safetensors' name → (ours, or ml_dtypes' where we have no such storage type; bits).
SAFETENSORS: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 8),
    "F4": ("float4_e2m1fn", 4),
    "F6_E2M3": ("float6_e2m3fn", 6),
    "F6_E3M2": ("float6_e3m2fn", 6),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "I16": ("int16", 16),
    "U16": ("uint16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "I32": ("int32", 32),
    "U32": ("uint32", 32),
    "F32": ("float32", 32),
    "C64": ("complex64", 64),
    "F64": ("float64", 64),
    "I64": ("int64", 64),
    "U64": ("uint64", 64),
}

_FROM_ML_DTYPES = frozenset({"bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"})


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The little-endian numpy type called `name`; UnsupportedError when there is no such row."""
    if name not in TABLE:
        raise UnsupportedError("unknown dtype", field="dtype", expected=", ".join(TABLE), found=name)
    import numpy as np  # the headers of other formats are shown without it

    if name in _FROM_ML_DTYPES:
        import ml_dtypes  # only files that hold these types pay for the import

        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return dtype
    return np.dtype(name).newbyteorder("<")


def itemsize(name: str) -> int:
    """Bytes of one element of `name`."""
    return TABLE[name].bits // 8
