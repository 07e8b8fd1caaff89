"""`qformat inspect`: what a model file holds, from its header alone."""

from __future__ import annotations

import sys

import click

from qformat.errors import UnsupportedError
from qformat.report import listing, reading, summary
from qformat.report.overview import Overview
from qformat.report.terminal import Printer


@click.command("inspect", short_help="Show what a model file holds.")
@click.argument("file")
@click.option("--tensors", is_flag=True, help="List every tensor instead of the tree of modules.")
@click.option("--tensor", metavar="NAME", help="One tensor in detail, with histograms of its codes and values.")
@click.option("--json", "json_", is_flag=True, help="Print everything as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="One line only.")
def command(file: str, tensors: bool, tensor: str | None, json_: bool, quiet: bool) -> None:
    """Show what FILE holds: sizes, how each tensor is stored, its error, where it comes from.

    FILE is a .qf, .safetensors or .gguf file, a directory of safetensors files, or an address (https://, hf://,
    s3://) of one of these files: only headers are read. Sizes are decimal; "bits" are bits per weight; errors are
    relative to the source.
    """
    if tensor is not None and (tensors or json_ or quiet):
        raise click.UsageError("--tensor shows one tensor as text; it goes with no other option")
    # what only one option needs is imported where it is needed: the plain command is to feel instant
    with reading.read(file) as view:
        if tensor is not None:
            from qformat.report import details

            if view.format != "qformat":
                raise UnsupportedError("values are shown of .qf files only", file=file)
            printer = Printer()
            printer.lines(details.tensor(file, tensor, printer.width))
        elif json_:
            from qformat.report import as_json

            for piece in as_json.pieces(view):
                sys.stdout.write(piece)
        elif quiet:
            Printer().line(summary.quiet(view))
        else:
            _show(view, tensors)


def _show(view: Overview, tensors: bool) -> None:
    printer = Printer()
    width = printer.width
    printer.lines(summary.title(view, width))
    sys.stdout.flush()  # before the rows of a large file are made: a reader that went away is noticed here
    printer.line()
    printer.lines(summary.facts(view, width))
    if view.rows:
        printer.line()
        printer.lines(summary.mix(view, width))
        printer.line()
        printer.lines(listing.tensors(view.rows, width) if tensors else listing.tree(view.rows, width))
