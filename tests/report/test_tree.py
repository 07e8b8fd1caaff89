"""The folded tree: nothing is lost, equal layers are one line, unequal ones are not."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from qformat.report.listing import tensors, tree
from qformat.report.overview import Row, Stored
from qformat.report.tree import Branch, fold


def row(name: str, shape: tuple[int, ...] = (8, 4), scheme: str = "0", error: float | None = None) -> Row:
    return Row(
        name, shape, math.prod(shape), 100, Stored(scheme, "bfloat16", "affine", "rtn", 4, 64, "rtn 4-bit"), error
    )


def walk(branch: Branch) -> Iterator[Branch]:
    yield branch
    for child in branch.children:
        yield from walk(child)


parts = st.sampled_from(["a", "b", "layers", "0", "1", "2", "3", "10", "01", "", "weight"])
names = st.lists(parts, min_size=1, max_size=6).map(".".join)
rows = st.lists(
    st.builds(row, names, st.sampled_from([(8, 4), (3,), ()]), st.sampled_from("01"), st.sampled_from([None, 0.5])),
    max_size=40,
    unique_by=lambda made: made.name,
)


@given(rows, st.sampled_from([4, 60]))
def test_every_tensor_is_counted_once(listed: list[Row], many: int) -> None:
    root = fold(listed, many)
    assert root.nbytes == sum(made.nbytes for made in listed)
    assert root.weights == sum(made.weights for made in listed)
    branches = list(walk(root))
    assert sum(len(branch.rows) + branch.hidden for branch in branches) == len(listed)
    shown = [made.name for branch in branches for made in branch.rows]
    assert len(shown) == len(set(shown))
    if many == 60:
        assert sorted(shown) == sorted(made.name for made in listed)


@given(rows)
def test_only_equal_tensors_are_folded(listed: list[Row]) -> None:
    for branch in walk(fold(listed)):
        assert len({(made.shape, made.stored) for made in branch.rows}) <= 1


@given(rows, st.one_of(st.none(), st.integers(20, 200)))
def test_listings_have_a_line_for_each(listed: list[Row], width: int | None) -> None:
    if listed:
        assert len(list(tensors(listed, width))) == len(listed) + 1
        assert len(list(tree(listed, width))) >= 2


def labels(listed: list[Row]) -> list[str]:
    return [branch.label for branch in walk(fold(listed)) if branch.label]


def test_equal_layers_fold_whatever_the_order_inside() -> None:
    listed = [row(f"model.layers.{n}.{leaf}") for n in (0, 1) for leaf in ("a.weight", "b.weight")]
    listed += [row(f"model.layers.2.{leaf}") for leaf in ("b.weight", "a.weight")]
    assert labels(listed) == ["model.layers.0–2", "a.weight", "b.weight"]
    assert fold(listed).children[0].copies == 3


def test_a_layer_that_differs_stands_apart() -> None:
    listed = [row(f"layers.{n}.{leaf}", scheme="1" if n == 2 else "0") for n in range(5) for leaf in ("q", "k")]
    assert labels(listed) == ["layers", "0–1, 3–4", "q", "k", "2", "q", "k"]


def test_experts_fold_inside_folded_layers() -> None:
    listed = [row(f"layers.{n}.experts.{e}.up.weight") for n in range(3) for e in range(4)]
    assert labels(listed) == ["layers.0–2.experts.0–3.up.weight"]
    assert fold(listed).children[0].copies == 12


def test_error_is_the_mean_over_weights() -> None:
    root = fold([row("a", (10, 1), error=0.1), row("b", (30, 1), error=0.3), row("c", (1000, 1))])
    assert root.error is not None
    assert abs(root.error - 0.25) < 1e-12


def test_long_lists_are_counted_not_shown() -> None:
    root = fold([row(f"t{n}") for n in range(1000)])
    assert root.children[-1].hidden == 1000 - 45
    assert len(root.children) == 46
