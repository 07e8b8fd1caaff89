"""Damaged and hostile files through every verb: a typed error on one line, never a traceback, never a control byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat import container
from tests.cli import models
from tests.cli.command_line import call, controls


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("model") / "x.qf", layers=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


VERBS: list[list[str]] = [
    ["inspect"], ["inspect", "--json"], ["inspect", "--tensors"], ["inspect", "--tensor", "model.layers.1.up.weight"],
    ["verify"], ["verify", "--json"], ["meta"],
]  # fmt: skip


def check(arguments: list[str], path: Path) -> int:
    """Run a verb on a file and demand what holds for any file."""
    result = call(*arguments, path)
    assert result.code in (0, 1, 4), result.err
    assert "unexpected" not in result.err
    assert "Traceback" not in result.err
    assert not controls(result.out)
    assert not controls(result.err)
    assert result.err.count("\n") <= 1
    assert (result.code == 0) == (result.err == "")
    return result.code


@given(st.data())
def test_flipped_cut_and_spliced_bytes(model: Path, folder: Path, data: st.DataObject) -> None:
    good = model.read_bytes()
    made = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        made[data.draw(st.integers(0, len(made) - 1))] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del made[data.draw(st.integers(0, len(made))) :]
    if data.draw(st.booleans()):
        made += data.draw(st.binary(max_size=200))
    path = folder / "made.qf"
    path.write_bytes(bytes(made))
    arguments = data.draw(st.sampled_from(VERBS))
    code = check(arguments, path)
    if arguments[0] == "verify":
        assert (code == 0) == (bytes(made) == good)


# values of metadata and schemes that are valid JSON and nonsense: the container takes them, the report must bear them
words = st.text(max_size=8).filter(str.isprintable)
numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
KNOWN = ["general.name", "general.architecture", "general.license", "qformat.tool", "qformat.seed", "qformat.coverage",
         "qformat.source.name", "qformat.source.revision", "config.architectures"]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KNOWN), json_values, max_size=5))
def test_metadata_of_any_type(folder: Path, metadata: dict[str, Any]) -> None:
    path = folder / "metadata.qf"
    with container.create(path) as writer:
        writer.finish({key: value for key, value in metadata.items() if value is not None})
    for arguments in (["inspect"], ["inspect", "--json"], ["inspect", "-q"], ["meta"], ["meta", "--json"]):
        assert check(arguments, path) == 0


scheme_like = st.fixed_dictionaries(
    {},
    optional={
        "coding": st.one_of(
            json_values,
            st.fixed_dictionaries(
                {"coding": st.sampled_from(["affine", "lookup", "dense", "additive", "trellis", 3])},
                optional={"bits": json_values, "group": json_values, "scales": json_values, "dtype": json_values,
                          "books": json_values},
            ),
        ),
        "method": json_values,
        "corrections": json_values,
    },
)  # fmt: skip


@given(scheme_like)
def test_schemes_from_the_future(folder: Path, scheme: dict[str, Any]) -> None:
    path = folder / "scheme.qf"
    data = np.arange(64, dtype=np.uint8)
    with container.create(path) as writer:
        writer.tensor("a.weight", scheme=scheme, dtype="float16", shape=(4, 8), length=64, data=[data])
        writer.finish({})
    for arguments in (["inspect"], ["inspect", "--json"], ["inspect", "--tensors"]):
        assert check(arguments, path) == 0
    check(["inspect", "--tensor", "a.weight"], path)
    check(["verify"], path)


def test_a_file_without_tensors(folder: Path) -> None:
    path = folder / "empty.qf"
    with container.create(path) as writer:
        writer.finish({})
    for arguments in VERBS:
        if "--tensor" not in arguments:
            assert check(arguments, path) == 0
    assert json.loads(call("inspect", "--json", path).out)["bits_per_weight"] is None
