"""Named tables: promises, so their bytes are pinned here."""

from __future__ import annotations

import hashlib

import ml_dtypes
import numpy as np
import pytest

from qformat.codings import tables
from qformat.errors import UnsupportedError

PINNED = {
    "dynamic8": "e732639a65f497b4",  # sha256 of the table that bitsandbytes 0.50 makes with torch 2.13
}


@pytest.mark.parametrize("name", tables.TABLE)
def test_a_table_has_two_to_the_bits_float32_values_and_is_read_only(name: str) -> None:
    values = tables.values(name)
    assert values.shape == (2 ** tables.TABLE[name].bits,)
    assert values.dtype == np.float32
    assert not values.flags.writeable


@pytest.mark.parametrize("name", PINNED)
def test_bytes_are_pinned(name: str) -> None:
    assert hashlib.sha256(tables.values(name).astype("<f4").tobytes()).hexdigest().startswith(PINNED[name])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("e4m3", ml_dtypes.float8_e4m3fn),
        ("e5m2", ml_dtypes.float8_e5m2),
        ("e8m0", ml_dtypes.float8_e8m0fnu),
        ("e2m1", ml_dtypes.float4_e2m1fn),
        ("e2m3", ml_dtypes.float6_e2m3fn),
        ("e3m2", ml_dtypes.float6_e3m2fn),
    ],
)
def test_small_floats_are_those_of_the_standards(name: str, dtype: type) -> None:
    codes = np.arange(2 ** tables.TABLE[name].bits).astype(np.uint8)
    assert np.array_equal(tables.values(name), codes.view(dtype).astype(np.float32), equal_nan=True)


def test_nf4_and_fp4_are_those_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    for name in ("nf4", "fp4"):
        assert np.array_equal(tables.values(name), functional.get_4bit_type(name, device="cpu").numpy())
    assert np.array_equal(tables.values("dynamic8"), functional.create_dynamic_map().numpy())


def test_an_unknown_table_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="unknown table"):
        tables.values("nf5")
