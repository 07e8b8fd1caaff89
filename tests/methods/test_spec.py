"""`spec/methods.md` has a section for every method and names its options with their defaults."""

from __future__ import annotations

import re

import pytest

from qformat.converters.methods import METHODS
from tests.methods.weights import ROOT

PAGE = (ROOT / "spec/methods.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def section(name: str) -> str:
    """What the page says about a method, the rules for all included."""
    return SECTIONS["Rules for all"] + next(text for title, text in SECTIONS.items() if name in title.split(", "))


def test_sections_are_the_methods() -> None:
    titles = {name for title in SECTIONS if title != "Rules for all" for name in title.split(", ")}
    assert titles == set(METHODS)


@pytest.mark.parametrize("name", list(METHODS))
def test_options_and_their_defaults_are_named(name: str) -> None:
    for option, (default, *_) in METHODS[name].options.items():
        assert f"`{option}`" in section(name), option
        if isinstance(default, float):
            assert re.search(rf"`{option}` \({re.escape(format(default, 'g'))}", section(name)), option
