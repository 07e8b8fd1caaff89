"""Methods and their page: it names every option with its default, and what they make is in the grammar."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import decoder
import numpy as np
import pytest

from qformat import linear, schemes
from qformat.converters.methods import METHODS, quantize

PAGE = (Path(__file__).parents[2] / "spec" / "methods.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def _cases() -> Iterator[Any]:
    """Each method at its defaults, at every number of bits that it has, and with double quantization if it has it."""
    for name, method in METHODS.items():
        yield pytest.param(name, {}, id=name)
        for bits in range(1, 9):
            if "bits" in method.options and method.options["bits"].accepts(bits):
                yield pytest.param(name, {"bits": bits}, id=f"{name}-{bits}")
        if "double_quant" in method.options:
            yield pytest.param(name, {"double_quant": True}, id=f"{name}-double")


@pytest.mark.parametrize(("name", "options"), list(_cases()))
def test_the_specs_decoder_makes_the_same_of_it(name: str, options: dict[str, Any]) -> None:
    weight = np.random.default_rng(0).standard_normal((19, 192)).astype(np.float32)
    made = quantize(name, weight, **options)
    stored = linear.pack(made.scheme, weight.shape, made.arrays, made.parameters)
    expected = linear.decode(made.scheme, weight.shape, made.arrays, parameters=made.parameters)
    parameters = (*made.parameters, *[0] * (4 - len(made.parameters)))
    found = decoder.decode(schemes.dump(made.scheme), weight.shape, parameters, stored.tobytes())
    assert np.array_equal(found, expected)


def _section(name: str) -> str:
    """What the page says about a method, the rules for all included."""
    return SECTIONS["Rules for all"] + next(text for title, text in SECTIONS.items() if name in title.split(", "))


def test_sections_are_the_methods() -> None:
    titles = {name for title in SECTIONS if title != "Rules for all" for name in title.split(", ")}
    assert titles == set(METHODS)


@pytest.mark.parametrize("name", list(METHODS))
def test_options_and_their_defaults_are_named(name: str) -> None:
    for option, (default, *_) in METHODS[name].options.items():
        assert f"`{option}`" in _section(name), option
        if isinstance(default, float):
            assert re.search(rf"`{option}` \({re.escape(format(default, 'g'))}", _section(name)), option
