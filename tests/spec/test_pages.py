"""The pages of the specification say what the code does: names, tables, headings, and the vectors they point to."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

import qformat
from qformat import codings, corrections, transforms
from qformat.codings import grammar, panel, tables
from qformat.codings.bits import PLANES

SPEC = Path(__file__).parents[2] / "spec"
PAGES = {page.stem: page.read_text() for page in (SPEC / "codings").glob("*.md")}
HEADINGS = ["Parameters", "Roles", "Bit layout", "Decoding", "Limits", "Change log"]


def _tag(node: type[msgspec.Struct]) -> str:
    return str(node.__struct_config__.tag)


def test_every_coding_has_a_page_and_every_page_something_to_say() -> None:
    others = {"scheme", "groups", "plain", "panel", "transforms", "corrections"}
    assert set(PAGES) == {_tag(coding) for coding in codings.TABLE} | others
    modules = {path.stem for path in Path(codings.__file__).parent.glob("*.py")}
    assert {_tag(coding) for coding in codings.TABLE} <= modules


@pytest.mark.parametrize("name", PAGES)
def test_pages_have_the_same_headings(name: str) -> None:
    assert re.findall(r"^# (.*)$", PAGES[name], re.M) == [name]
    assert re.findall(r"^## (.*)$", PAGES[name], re.M) == HEADINGS


@pytest.mark.parametrize("node", codings.TABLE, ids=_tag)
def test_pages_name_every_member(node: type[msgspec.Struct]) -> None:
    for member in node.__struct_fields__:
        assert member in PAGES[_tag(node)]


def test_pages_name_every_grouping_transform_and_correction() -> None:
    for page, field, nodes in (
        ("groups", "group", grammar.Grouping.__args__),
        ("transforms", "transform", transforms.Transform.__args__),
        ("corrections", "correction", corrections.Correction.__args__),
    ):
        found = re.findall(rf'^\| `\{{"{field}": "(\w+)"', PAGES[page], re.M)
        assert found == [_tag(node) for node in nodes]


def test_the_table_of_tables() -> None:
    found = re.findall(r"^\| `(\w+)` \| (\d) \|", PAGES["lookup"], re.M)
    assert {name: int(bits) for name, bits in found} == {name: row.bits for name, row in tables.TABLE.items()}
    for name in ("nf4", "iq4_nl"):
        (entries,) = re.findall(rf"^\| `{name}` \| 4 \| (.*) \|$", PAGES["lookup"], re.M)
        values = [float(entry.replace("−", "-")) for entry in entries.split(", ")]
        assert values == tables.values(name).tolist()


def test_the_constants_of_panels() -> None:
    assert f"ROWS = {panel.ROWS}, BLOCK = {panel.BLOCK}" in PAGES["panel"]
    for bits, planes in re.findall(r"^\| (\d) \| ([\d +]+) \|$", PAGES["panel"], re.M):
        assert PLANES[int(bits)] == tuple(map(int, planes.split(" + ")))


def test_every_row_of_roles_is_shown_by_a_vector() -> None:
    rows = re.findall(r"^\| .* \| `([\w-]+)` `([^`]+)` \|$", (SPEC / "roles.md").read_text(), re.M)
    assert len(rows) >= 50
    for file in {file for file, _ in rows}:
        with qformat.open(SPEC / "vectors" / "valid" / f"{file}.qf") as model:
            assert {tensor for name, tensor in rows if name == file} <= set(model)
