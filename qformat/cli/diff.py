"""`qformat diff`: compare two files, or a file and its source."""

from __future__ import annotations

import click

from qformat.cli.conversion import Tolerance
from qformat.report import as_json, comparison
from qformat.report.compare import compare
from qformat.report.progress import Progress
from qformat.report.terminal import Printer


@click.command("diff", short_help="Compare two files, or a file and its source.")
@click.argument("a")
@click.argument("b")
@click.option("--structure", is_flag=True, help="Names and shapes, metadata and carried files; decode no value.")
@click.option("--tolerance", type=Tolerance(), default=0.0, show_default=True,
              help="Relative difference of values up to which tensors count as equal.")  # fmt: skip
@click.option("--tensors", is_flag=True, help="Every tensor on a line of its own: no layers folded.")
@click.option("--json", "json_", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the last line.")
def command(a: str, b: str, structure: bool, tolerance: float, tensors: bool, json_: bool, quiet: bool) -> int:
    """Compare A and B: which tensors each has, their shapes, then their values.

    A and B are .qf files or checkpoints (a directory, a safetensors file, a hub id). Relative differences are
    measured against B. Exits with 1 when they differ.

    Tensors of two .qf files with one digest are equal and are not read: whether their bytes still are what the digest
    says, `qformat verify` tells.
    """
    with Progress(0, "diff", unit="weight", quiet=quiet or json_) as line:

        def progress(done: int, total: int, name: str) -> None:
            line.total = total
            line.update(done, name)

        result = compare(a, b, values=not structure, progress=progress)
    if json_:
        click.echo(as_json.dumps(comparison.to_json(result, tolerance)))
    else:
        printer = Printer()
        if quiet:
            printer.line(comparison.summary(result, tolerance))
        else:
            printer.lines(comparison.lines(result, printer.width, tolerance, tensors))
    return 1 if result.differs(tolerance) else 0
