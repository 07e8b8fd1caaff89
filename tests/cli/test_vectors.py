"""The conformance vectors through the command line: valid ones are shown as they are known, invalid ones refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qformat import store
from tests.cli.command_line import call, controls

VECTORS = Path(__file__).parents[2] / "spec" / "vectors"
VALID = sorted((VECTORS / "valid").glob("*.qf"))
INVALID = sorted((VECTORS / "invalid").glob("*.qf"))


def test_there_are_vectors() -> None:
    assert VALID
    assert INVALID


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_vector_is_listed_as_the_library_knows_it(path: Path) -> None:
    shown = json.loads(call("inspect", "--json", path).out)
    with store.open(path) as model:
        assert [tensor["name"] for tensor in shown["tensors"]] == list(model)
        assert shown["content_digest"] == model.content_digest
        for tensor in shown["tensors"]:
            known = model[tensor["name"]]
            assert tensor["shape"] == list(known.shape)
            for key in (
                "dtype",
                "coding",
                "method",
                "bits",
                "group_size",
                "nbytes",
                "bits_per_weight",
                "error",
                "max_error",
            ):
                assert tensor[key] == getattr(known, key), (tensor["name"], key)
    assert call("verify", "-q", path) == (0, "", "")
    for arguments in (["inspect"], ["inspect", "--tensors"], ["meta"]):
        result = call(*arguments, path)
        assert (result.code, result.err) == (0, "")
        assert not controls(result.out)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_each_tensor_of_a_valid_vector_is_shown(path: Path) -> None:
    with store.open(path) as model:
        names = list(model)
    for name in names:
        result = call("inspect", "--tensor", name, path)
        assert (result.code, result.err) == (0, ""), name
        assert not controls(result.out)


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_vector_is_refused_by_verify(path: Path) -> None:
    result = call("verify", path)
    if json.loads(path.with_suffix(".json").read_text())["error"] == "UnsupportedError" and result.code == 0:
        assert "verified as bytes only" in result.out  # whole, but of a later version
        assert json.loads(call("verify", "--json", path).out)["verified_as_bytes_only"]
        return
    assert result.code in (1, 4)
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert "unexpected" not in result.err
    assert call("inspect", path).code in (0, 1, 4)  # what is wrong with the numbers is not in the index
