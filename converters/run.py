"""Doing a conversion: streaming, parallel, resumable, and the same bytes whatever happens on the way."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from qformat.converters.budget import make_budget, parse_size
from qformat.converters.conversion import Conversion, Progress, Report
from qformat.converters.existing import existing
from qformat.converters.output import check_shards, check_target, shard_paths
from qformat.converters.plan import cut, make_plan
from qformat.converters.provenance import fingerprint_of
from qformat.converters.recipe import Recipe, make_recipe
from qformat.converters.sources import open_source
from qformat.converters.sources.model import close_files
from qformat.converters.workers import one_thread_each, stoppable
from qformat.errors import RecipeError

__all__ = ["NONFINITE", "Report", "convert"]

NONFINITE = ("dense", "error", "zero", "clamp")


def convert(
    src: str | Path,
    out: str | Path,
    *,
    method: str | None = None,
    bits: int | None = None,
    group_size: int | str | None = None,
    recipe: str | Path | Mapping[str, Any] | Recipe | None = None,
    max_memory: str | int = "2GiB",
    workers: int | None = None,
    executor: Executor | None = None,
    compress: bool = False,
    shard_size: str | int | None = None,
    overwrite: bool = False,
    restart: bool = False,
    nonfinite: str = "dense",
    revision: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Convert a checkpoint into one .qf file, or a set of shards with its manifest at `out`.

    Killed at any moment, the same call goes on where it was and ends with the same bytes. If `out` is already what this
    call makes, nothing is done.

    Args:
        src: a Hugging Face directory, a safetensors or .bin file, or a hub id.
        out: the file to write; `out`.partial and `out`.journal stand beside it until it is complete.
        method, bits, group_size, options: of the default method ("ls", 4, 64); over those of `recipe`. A group_size of
            "row" or -1 is the whole row.
        recipe: a YAML file or a mapping, see `qformat.converters.recipe`.
        max_memory: bound on the memory of all processes together.
        workers: threads that code slabs (default: one a processor, fewer if memory is short).
        executor: any other `concurrent.futures.Executor` to run slabs on, such as a cluster's.
        compress: byte-split and compress the floats that stay dense.
        shard_size: cut the output into files of about this size.
        overwrite: replace `out` if it exists. Of a set of shards nothing stays that the new output does not have.
        restart: discard what an interrupted run of something else left.
        nonfinite: what becomes of a linear with NaN or infinities: it stays "dense" and is reported, is an "error", or
            the numbers become "zero" or are "clamp"ed.
        progress: called with (source bytes done, what is being done).

    Raises:
        SourceError, RecipeError, OutputError: see `qformat.errors`.
        CoverageError: a rule matches nothing that it could change; nothing was written.
        InterruptedRunError: SIGINT or SIGTERM came, or a process of `executor` died; the same call resumes.
    """
    if nonfinite not in NONFINITE:
        raise RecipeError("unknown policy", field="nonfinite", expected=", ".join(NONFINITE), found=nonfinite)
    if nonfinite in ("zero", "clamp"):
        options["nonfinite"] = nonfinite
    made = make_recipe(recipe, method=method, bits=bits, group_size=group_size, **options)
    source = open_source(src, revision=revision)
    plan = make_plan(source, made)
    plan.require_coverage()
    out = Path(out)
    check_target(out, source)
    settings = {"compress": compress, "nonfinite": nonfinite}
    limit = parse_size(shard_size) if shard_size is not None else None
    budget = make_budget(plan, parse_size(max_memory), workers, processes=executor is not None)
    fingerprint = fingerprint_of(plan, {**settings, "shard_size": limit})
    counts = cut(plan.items, limit)
    replace = overwrite or out.with_name(out.name + ".journal").exists()
    if out.exists() and not replace:
        return existing(out, plan, settings, len(counts))
    if len(counts) > 1:
        check_shards(shard_paths(out, len(counts)), replace=replace)
    run = Conversion(plan, out, budget, settings, progress, counts)
    try:
        with stoppable(run.stop), one_thread_each(executor):
            return run.go(fingerprint, executor, restart)
    finally:
        close_files()
