"""`qformat convert`: quantize a checkpoint into a .qf file."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from qformat.cli.conversion import Tolerance, method_options, shared_options
from qformat.errors import CoverageError, InterruptedRunError


@click.command("convert", short_help="Quantize a checkpoint into a .qf file.")
@click.argument("src")
@click.argument("out", type=click.Path(dir_okay=False))
@shared_options
@click.option("--compress", is_flag=True, help="Byte-split and compress floats that stay dense.")
@click.option(
    "--nonfinite",
    type=click.Choice(("dense", "error", "zero", "clamp")),
    default="dense",
    show_default=True,
    help="What becomes of a linear with NaN or infinities.",
)
@click.option("--max-error", type=Tolerance(), help="Quality gate: exit 3 if a tensor's relative error is larger.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--restart", is_flag=True, help="Discard what an interrupted run of something else left.")
@click.option("--json", "json_", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    src: str,
    out: str,
    double_quant: bool,
    settings: tuple[tuple[str, Any], ...],
    max_error: float | None,
    json_: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Convert SRC (a Hugging Face directory, a safetensors or .bin file, or a hub id) into OUT.

    Interrupted at any moment, even by kill -9, the same command goes on where it was and ends with the same bytes.

    Exit codes: 0 done; 2 an option makes no sense; 3 a rule matched nothing (nothing is written), or the file is
    complete but a gate failed: NaN or infinities in a linear, or an error above --max-error; 75 interrupted, the same
    command resumes.
    """
    start = time.perf_counter()
    with _interruptible(out):
        from qformat.converters.run import convert
        from qformat.converters.sources import open_source
        from qformat.report.progress import Progress

        total = open_source(src, revision=options["revision"]).nbytes
        with Progress(total, "convert", quiet=quiet or json_) as line:
            report = convert(src, out, progress=line.update, **options, **method_options(double_quant, settings))
    bad = {name: error for name, error in report.errors.items() if max_error is not None and error > max_error}
    gates = [f"{name}: {nan} NaN and {infinite} infinite" for name, (nan, infinite) in report.nonfinite.items()]
    gates += [f"{name}: relative error {error:.4g} is above {max_error:g}" for name, error in bad.items()]
    if json_:
        _print_json(out, report, gates)
    elif not quiet:
        _print(out, report, total, time.perf_counter() - start)
    if gates:
        from qformat.text import safe_text

        for gate in gates[:20]:
            print(f"warning: {safe_text(gate)}", file=sys.stderr)
        raise CoverageError(f"{len(gates)} gate(s) failed; the file is complete", file=out)
    return 0


@contextmanager
def _interruptible(out: str) -> Iterator[None]:
    """SIGINT and SIGTERM end what comes before and after a run's own handling of them as they end a run: with 75.

    That is the imports, a download, headers, and a second signal while a slab is finished.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, before[signal.Signals(number)])
        raise InterruptedRunError("interrupted; the same command goes on from here", file=out)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(out: str, report: Any, source_bytes: int, elapsed: float) -> None:
    from qformat.report import numbers
    from qformat.report.layout import wrap
    from qformat.report.terminal import Printer

    printer, plan = Printer(), report.plan
    if report.up_to_date:
        printer.ok(f"{out} is already what this command makes")
        return
    coded = [item for item in plan.items if item.action == "quantize" and item.name not in report.left_dense]
    worst = max(report.errors.values(), default=0.0)
    files = f" in {numbers.plural(report.files, 'file')}" if report.files > 1 else ""
    printer.ok(
        f"{out}: {numbers.size(report.size)}{files}, {report.bits_per_weight:.3f} bits per weight, "
        f"from {numbers.size(source_bytes)} in {numbers.seconds(elapsed)}"
    )
    done = f"{numbers.plural(len(coded), 'tensor')} quantized, largest relative error {worst:.4g}"
    for line in (done, *dense_lines(plan, report.left_dense)):
        first, *rest = [line] if printer.width is None else wrap(line, printer.width - 8)
        printer.line(f"    {first}")
        for part in rest:
            printer.line(f"        {part}")


def dense_lines(plan: Any, left_dense: Any) -> list[str]:
    """What was not quantized, by reason, names folded over layers."""
    from qformat.text import fold_layers

    reasons: dict[str, dict[str, int]] = {}
    for item in plan.items:
        if item.action == "dense" or item.name in left_dense:
            names = reasons.setdefault(left_dense.get(item.name, item.reason), {})
            names[fold_layers(item.name)] = names.get(fold_layers(item.name), 0) + 1
    lines = []
    for reason, names in sorted(reasons.items()):
        shown = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in list(names.items())[:6])
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        lines.append(f"left dense, {reason}: {shown}{more}")
    return lines


def _print_json(out: str, report: Any, gates: list[str]) -> None:
    from qformat.report import as_json

    plan = report.plan
    click.echo(
        as_json.dumps(
            {
                "file": out,
                "digest": report.digest,
                "total_bytes": report.size,
                "bits_per_weight": report.bits_per_weight,
                "tensors": len(plan.items),
                "quantized": sum(
                    item.action == "quantize" and item.name not in report.left_dense for item in plan.items
                ),
                "left_dense": dict(report.left_dense),
                "nonfinite": {name: {"nan": n, "inf": i} for name, (n, i) in report.nonfinite.items()},
                "errors": dict(report.errors),
                "up_to_date": report.up_to_date,
                "gates": gates,
            }
        )
    )
