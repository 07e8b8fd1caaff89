"""What a file says of where it comes from: never times, hosts, paths or the number of workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qformat import __version__
from qformat.converters.methods import METHODS
from qformat.converters.plan import Item, Plan, coverage
from qformat.converters.recipe import Recipe

TOOL = "qformat"


def fingerprint_of(plan: Plan, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal for a run to go on where another stopped. Lives in the journal only."""
    source = plan.source
    files = (*source.files, *source.attachments.values())
    return {
        "journal": 1,
        "version": __version__,
        "source": {file.name: {"size": file.size, "mtime_ns": file.mtime_ns} for file in files},
        "revision": source.revision or "",
        "recipe": _recipe(plan.recipe),
        "settings": dict(settings),
        "tensors": len(plan.items),
    }


def _recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe with the defaults of its method filled in: what was said and what was left unsaid make one file."""
    return {**recipe.normalised(), **METHODS[recipe.method].resolve(recipe.options)}


def metadata_of(
    plan: Plan,
    settings: Mapping[str, Any],
    hashes: Mapping[str, str],
    nonfinite: Mapping[str, tuple[int, int]],
    left_dense: Mapping[str, str],
) -> dict[str, Any]:
    """The metadata of the output: GGUF's general keys, and ours."""
    source = plan.source
    found: dict[str, Any] = {"general.type": "model"}
    if source.model_type:
        found["general.architecture"] = source.model_type
    if source.hub_id is not None:
        found["general.name"] = source.hub_id.rpartition("/")[2]
        found["general.source.repo_url"] = f"https://huggingface.co/{source.hub_id}"
        found["qformat.source.name"] = source.hub_id
    if source.revision is not None:
        found["qformat.source.revision"] = source.revision
    found["qformat.source.files"] = [
        {"name": file.name, "size": file.size, "blake3": hashes[file.name]} for file in source.files
    ]
    found["qformat.recipe"] = {**_recipe(plan.recipe), **settings}
    found["qformat.tool"] = {"name": TOOL, "version": __version__}
    items = tuple(_as_done(item, left_dense) for item in plan.items)
    found["qformat.coverage"] = coverage(items)
    if nonfinite:
        found["qformat.nonfinite"] = {name: {"nan": n, "inf": i} for name, (n, i) in sorted(nonfinite.items())}
    return found


def _as_done(item: Item, left_dense: Mapping[str, str]) -> Item:
    return item.dense(left_dense[item.name]) if item.name in left_dense else item
