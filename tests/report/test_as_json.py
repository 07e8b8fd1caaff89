"""JSON written in pieces is the JSON of the whole, in printable ASCII."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from qformat.report import as_json
from qformat.report.overview import Overview, Row, Stored

STORED = [
    Stored("0", "bfloat16", "affine", "hqq", 4, 64, "hqq 4-bit g64"),
    Stored("1", "float16", "dense", None, None, None, 'a "label"\x7f'),
]
errors = st.none() | st.floats(0, 1) | st.sampled_from([math.inf, math.nan])
rows = st.builds(
    lambda name, shape, nbytes, stored, error, most, target: Row(
        name, shape, math.prod(shape), nbytes, stored, error, most, target
    ),
    st.text(),
    st.sampled_from([(), (0, 3), (16, 64)]),
    st.sampled_from([0, 64, 2048]),
    st.sampled_from(STORED),
    errors,
    errors,
    st.none() | st.text(),
)


@given(st.lists(rows, max_size=8))
def test_pieces_are_the_whole(made: list[Row]) -> None:
    view = Overview("x", "qformat", "1.0", 10, made, {"k\u202e": "\x7f"}, digest="d", content_digest=lambda: "c")
    text = "".join(as_json.pieces(view))
    assert text.isascii() and all(c.isprintable() or c == "\n" for c in text)
    assert json.loads(text) == json.loads(as_json.dumps(as_json.overview(view)))
    assert [each["name"] for each in json.loads(text)["tensors"]] == [row.name for row in made]
