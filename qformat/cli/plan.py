"""`qformat plan`: what convert would do and cost, from headers alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from qformat.cli.conversion import method_options, shared_options


@click.command("plan", short_help="Tell what convert would do, from headers alone.")
@click.argument("src")
@shared_options
@click.option("--tensors", is_flag=True, help="One line for each tensor, layers not folded.")
@click.option("--json", "json_", is_flag=True, help="Print the plan as JSON.")
def command(
    src: str,
    double_quant: bool,
    settings: tuple[tuple[str, Any], ...],
    recipe: str | None,
    revision: str | None,
    max_memory: str,
    workers: int | None,
    shard_size: str | None,
    tensors: bool,
    json_: bool,
    **options: Any,
) -> int:
    """What each tensor of SRC will become, why, and what that takes: bytes, memory, disk and time.

    Exit code 3 if a rule of the recipe matches nothing that it could change.
    """
    from qformat.converters.budget import make_budget, parse_size
    from qformat.converters.plan import cut, make_plan
    from qformat.converters.recipe import make_recipe
    from qformat.converters.sources import open_source

    made = make_recipe(recipe, **options, **method_options(double_quant, settings))
    plan = make_plan(open_source(src, revision=revision), made)
    budget = make_budget(plan, parse_size(max_memory), workers)
    shards = cut(plan.items, parse_size(shard_size) if shard_size else None)
    costs = {
        "bytes": plan.nbytes,
        "attachment_bytes": plan.attachments,
        "bits_per_weight": plan.bits_per_weight,
        "peak_memory": budget.peak,
        "workers": budget.workers,
        "disk": plan.disk(),
        "seconds": plan.seconds(budget.workers),
        "shards": len(shards),
    }
    if json_:
        _print_json(plan, costs)
    else:
        _print(plan, costs, tensors)
    plan.require_coverage()
    return 0


def _print(plan: Any, costs: dict[str, Any], tensors: bool) -> None:
    from qformat.report import numbers
    from qformat.report.layout import Column, Table, wrap
    from qformat.report.terminal import Printer

    printer = Printer()
    table = Table(
        [
            Column("tensor", elastic=True, least=32),
            Column("shape", keep=3),
            Column("becomes", keep=5),
            Column("axis", keep=2),
            Column("bits/w", align="right", keep=1),
            Column("bytes", align="right", keep=4),
            Column("why"),
        ]
    )
    for name, count, item in _rows(plan, tensors):
        table.add(
            f"{name} ({count})" if count > 1 else name,
            numbers.shape(item.tensor.shape),
            _becomes(item),
            item.axis if item.action == "quantize" else "",
            f"{item.bits_per_weight:.3f}" if item.length else "",
            numbers.size(item.length * count),
            _why(item),
        )
    lines = list(table.lines(printer.width))
    printer.lines(lines)
    printer.line("")
    if lines and not any(text.startswith("why") for text, _ in lines[0]):  # narrow: the reasons by themselves
        reasons = Table([Column("tensors", align="right", keep=1), Column("why", elastic=True, cut="end")])
        for why, count in Counter(map(_why, plan.items)).items():
            reasons.add(str(count), why)
        printer.lines(reasons.lines(printer.width))
        printer.line("")
    for text in (
        f"{numbers.plural(len(plan.items), 'tensor')}, {numbers.size(costs['bytes'])}, "
        f"{costs['bits_per_weight']:.3f} bits per weight; attachments {numbers.size(costs['attachment_bytes'])}",
        f"memory ≤ {numbers.size(costs['peak_memory'])} with {numbers.plural(costs['workers'], 'worker')}, disk ≤ "
        f"{numbers.size(costs['disk'])}, about {numbers.seconds(costs['seconds'])}",
    ):
        for line in [text] if printer.width is None else wrap(text, printer.width):
            printer.line(line)
    for warning in plan.source.warnings:
        printer.line(("note ", "dim"), warning)


def _rows(plan: Any, tensors: bool) -> list[tuple[str, int, Any]]:
    """(name, how many, item): equal tensors of different layers folded into one row."""
    from qformat.text import fold_layers

    if tensors:
        return [(item.name, 1, item) for item in plan.items]
    folded: dict[tuple[Any, ...], list[Any]] = {}
    for item in plan.items:
        key = (fold_layers(item.name), item.tensor.shape, _becomes(item), item.length, item.reason, item.rule)
        folded.setdefault(key, []).append(item)
    return [(key[0] if len(items) > 1 else items[0].name, len(items), items[0]) for key, items in folded.items()]


def _why(item: Any) -> str:
    return f"{item.reason}; rule {item.rule}" if item.rule else str(item.reason)


def _becomes(item: Any) -> str:
    if item.action != "quantize":
        return item.tensor.dtype if item.action == "dense" else f"alias of {item.target}"
    group = item.options.get("group_size")
    parts = [
        item.method,
        f"{item.options['bits']}-bit" if "bits" in item.options else "",
        f"g{group}" if group else "row" if "group_size" in item.options else "",
    ]
    return " ".join(part for part in parts if part)


def _print_json(plan: Any, costs: dict[str, Any]) -> None:
    from qformat.report import as_json

    tensors = [
        {
            "name": item.name,
            "shape": list(item.tensor.shape),
            "dtype": item.tensor.dtype,
            "action": item.action,
            "method": item.method,
            "options": dict(item.options),
            "axis": item.axis,
            "nbytes": item.length,
            "bits_per_weight": item.bits_per_weight,
            "reason": item.reason,
            "rule": item.rule,
            "target": item.target,
        }
        for item in plan.items
    ]
    click.echo(
        as_json.dumps(
            {
                **costs,
                "recipe": plan.recipe.normalised(),
                "unmatched": [rule.match for rule in plan.unmatched],
                "warnings": list(plan.source.warnings),
                "tensors": tensors,
            }
        )
    )
