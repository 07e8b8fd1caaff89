"""Imports point one way, and what is heavy is imported where it is used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Bottom to top; a module imports from its own row and the rows above it here. container and codings share a row but do
# not know each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "text", "dtypes", "remote", "config_json"),
    ("container", "codings"),
    ("schemes", "linear", "transforms", "corrections", "sparse", "selection", "residency"),
    ("kernels",),
    ("store", "tensor", "member", "decoding", "verification"),
    ("converters",),
    ("torch",),
    ("evaluate",),
    ("report",),
    ("cli",),
)
LAYER = {name: number for number, row in enumerate(LAYERS) for name in row}

# Libraries that may be imported at the top of a module only here; elsewhere inside of the function that needs them.
HEAVY = {"torch": ("torch", "evaluate"), "transformers": (), "rich": (), "huggingface_hub": (), "triton": ("kernels",)}


def files() -> list[tuple[str, Path]]:
    """(dotted name below qformat, path) of every module."""
    found = []
    for folder, prefix in (("qformat", ()), ("converters", ("converters",))):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "qformat" and parts[0] == "converters":
                continue  # a symlink for type checkers
            found.append((".".join((*prefix, *parts)), path))
    return found


def imports(tree: ast.AST, *, top_only: bool = False) -> Iterator[str]:
    """Dotted names that a module imports, anywhere in it or only when it is itself imported."""
    for node in tree.body if top_only and isinstance(tree, ast.Module) else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(name: str) -> str | None:
    """The row's word for a dotted name below qformat; None for the top, which passes names on."""
    return name.split(".")[0] if name.split(".")[0] in LAYER else None


@pytest.mark.parametrize(("name", "path"), files(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_one_way(name: str, path: Path) -> None:
    own = layer_of(name)
    if own is None:
        assert name in ("__init__", "__main__"), "every module has a layer"
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for target in imports(tree):
        if not target.startswith("qformat."):
            assert not target.startswith("converters"), "converters/ is qformat.converters"
            continue
        other = layer_of(target.removeprefix("qformat."))
        if other is None:
            continue
        assert LAYER[other] <= LAYER[own], f"{name} imports {target}"
        assert {own, other} != {"container", "codings"}, f"{name} imports {target}"
        if name.startswith("converters.methods"):
            assert other not in ("container", "store"), f"a method knows no file, but {name} imports {target}"
    for target in imports(tree, top_only=True):
        places = HEAVY.get(target.split(".")[0])
        assert places is None or own in places, f"{name} imports {target} at its top"
