"""The options that `convert` and `plan` share, and what they make of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

METHODS = ("ls", "rtn", "hqq", "nf4", "fp4", "int8", "eetq", "sinq", "tail")


class GroupSize(click.ParamType):  # type: ignore[type-arg]
    """A positive number, or `row`."""

    name = "N|row"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or "row"."""
        if value in ("row", "-1"):
            return "row"
        try:
            number = int(value)
        except ValueError:
            self.fail("a group size is a positive number, or row", param, ctx)
        if number < 1:
            self.fail("a group size is a positive number, or row", param, ctx)
        return number


class Tolerance(click.FloatRange):
    """A number from 0 on. Not NaN: nothing is above it, so that a gate would let everything pass."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail("NaN is no tolerance", param, ctx)
        return number


class Setting(click.ParamType):  # type: ignore[type-arg]
    """KEY=VALUE for an option that only some methods have; the value is a number, true, false or a word."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """(key, value) with the value's own type."""
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail("expected KEY=VALUE", param, ctx)
        words = {"true": True, "false": False, "none": None}
        if text.lower() in words:
            return key, words[text.lower()]
        for kind in (int, float):
            try:
                return key, kind(text)
            except ValueError:
                continue
        return key, text


def shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Everything that decides what the output holds."""
    options = (
        click.option("-m", "--method", type=click.Choice(METHODS), help="Default method for linears.  [ls]"),
        click.option("-b", "--bits", type=click.IntRange(1, 8), help="Bits of a code.  [4]"),
        click.option("-g", "--group-size", type=GroupSize(), help="Weights that share a scale, or row.  [64]"),
        click.option("--double-quant", is_flag=True, help="Quantize the scales of nf4 and fp4 once more."),
        click.option(
            "-o",
            "--option",
            "settings",
            type=Setting(),
            multiple=True,
            help="Any other option of the method, such as symmetric=true.",
        ),
        click.option(
            "-r", "--recipe", type=click.Path(exists=True, dir_okay=False), help="Rules for tensors, in YAML."
        ),
        click.option("--revision", help="Branch, tag or commit of a hub id."),
        click.option("--max-memory", default="2GiB", show_default=True, help="Bound on the memory of all processes."),
        click.option(
            "-j", "--workers", type=click.IntRange(1, 1024), help="Workers; by default one for each processor."
        ),
        click.option("--shard-size", help="Cut the output into files of about this size, such as 4GiB."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def method_options(double_quant: bool, settings: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Options of the method beyond bits and group size."""
    return {**dict(settings), **({"double_quant": True} if double_quant else {})}
