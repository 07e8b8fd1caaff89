"""Any bytes under any scheme: numbers or a typed error, and what is refused is refused by the same error each time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qformat import linear, schemes
from qformat.errors import InvalidFileError, QFormatError
from tests.strategies import Linear, linears


def _outcome(scheme: schemes.Scheme, case: Linear, stored: np.ndarray) -> str:
    try:
        parts = linear.parts(scheme, case.shape, case.parameters, stored)
        held = linear.secure(scheme, case.shape, case.parameters, parts)
        weight = linear.decode(scheme, case.shape, held, parameters=case.parameters)
    except InvalidFileError as error:
        if not error.field:
            raise AssertionError("an error without its field") from error
        return str(error)
    assert weight.shape == case.shape
    assert weight.dtype == np.float32
    return "decoded"


@given(linears(), st.integers(0, 2**32 - 1), st.sampled_from(["noise", "flips", "zeros", "ones"]))
def test_any_bytes_decode_or_are_refused(case: Linear, seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    stored = linear.pack(case.scheme, case.shape, case.arrays, case.parameters).copy()
    if kind == "noise":
        stored[:] = rng.integers(0, 256, stored.size)
    elif kind == "flips" and stored.size:
        places = rng.integers(0, stored.size, 5)
        stored[places] ^= 2 ** rng.integers(0, 8, 5).astype(np.uint8)
    elif kind in ("zeros", "ones"):
        stored[:] = 0 if kind == "zeros" else 255
    assert _outcome(case.scheme, case, stored) == _outcome(case.scheme, case, stored)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        [
            "dense",
            "affine",
            "lookup",
            "additive",
            "block",
            "flat",
            "comb",
            "map",
            "permute",
            "lowrank",
            "plain",
            "panel",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "coding",
                    "bits",
                    "group",
                    "scales",
                    "zeros",
                    "table",
                    "layout",
                    "transforms",
                    "transform",
                    "dtype",
                    "size",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.one_of(json_values, json_values.map(lambda coding: {"coding": coding})))
def test_any_json_is_a_scheme_or_is_refused(document: object) -> None:
    try:
        scheme = schemes.parse(document)
    except QFormatError:
        return
    assert schemes.parse(schemes.dump(scheme)) == scheme


@given(linears(), st.data())
def test_a_changed_scheme_fits_its_extent_or_is_refused(case: Linear, data: st.DataObject) -> None:
    """A mutated scheme over the same bytes: `layout` gives another length, or everything still fits."""
    document = schemes.dump(case.scheme)
    node = document["coding"]
    key = data.draw(st.sampled_from(sorted(node)))
    node[key] = data.draw(st.one_of(json_values, st.integers(-1, 20)))
    stored = linear.pack(case.scheme, case.shape, case.arrays, case.parameters)
    try:
        scheme = schemes.parse(document)
        if linear.layout(scheme, case.shape, case.parameters).length != len(stored):
            return
    except QFormatError:
        return
    _outcome(scheme, case, stored)
