"""The names that stay."""

from __future__ import annotations

import importlib

import pytest

import qformat

# What code outside of the project relies on.
PROMISED = {
    "qformat": ("open", "convert", "verify", "QFormatError", "Model", "Tensor", "__version__"),
    "qformat.torch": ("QEmbedding", "QLinear", "load_model", "load_into"),
    "qformat.evaluate": ("perplexity", "kl_divergence", "speed"),
    "qformat.kernels": ("active", "set_threads", "get_threads"),
    "qformat.container": ("open", "Container", "Writer", "create", "edit_metadata", "recover"),
    "qformat.converters.methods": ("METHODS", "quantize"),
}
ATTRIBUTES = {
    "Model": ("metadata", "digest", "content_digest", "attachments", "close"),
    "Tensor": (
        "shape", "dtype", "nbytes", "bits_per_weight", "coding", "method", "bits", "group_size", "error", "max_error",
        "decode", "arrays", "matvec",
    ),
}  # fmt: skip


@pytest.mark.parametrize("module", PROMISED)
def test_promised_names_are_there(module: str) -> None:
    found = importlib.import_module(module)
    for name in PROMISED[module]:
        assert hasattr(found, name), f"{module}.{name}"
        assert name in getattr(found, "__all__", (name,)), f"{module}.__all__ lacks {name}"


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_promised_attributes_are_there(kind: str) -> None:
    assert [name for name in ATTRIBUTES[kind] if not hasattr(getattr(qformat, kind), name)] == []


def test_all_lists_are_true_and_sorted() -> None:
    assert list(qformat.__all__) == sorted(qformat.__all__)
    assert set(qformat.__all__) <= set(dir(qformat))
    for name in qformat.__all__:
        getattr(qformat, name)


def test_methods_are_all_there() -> None:
    from qformat.converters.methods import METHODS

    assert set(METHODS) >= {"rtn", "ls", "eetq", "int8", "nf4", "fp4", "hqq", "sinq", "tail"}


def test_verbs_are_all_there() -> None:
    from qformat.cli.main import VERBS

    assert set(VERBS) >= {"convert", "plan", "inspect", "verify", "diff", "meta", "export"}
