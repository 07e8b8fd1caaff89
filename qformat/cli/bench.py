"""`qformat bench`: how fast a file's tensors are on this machine."""

from __future__ import annotations

from dataclasses import asdict

import click

from qformat import kernels, store
from qformat.report import as_json, numbers
from qformat.report.layout import Column, Table
from qformat.report.terminal import Printer
from qformat.report.throughput import Throughput, throughput


@click.command("bench", short_help="Time a file's tensors on this machine.")
@click.argument("file")
@click.option("--model", "whole", is_flag=True, help="Also tokens per second through transformers.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Rounds that count.")
@click.option("--json", "json_", is_flag=True, help="Print the result as JSON.")
def command(file: str, whole: bool, rounds: int, json_: bool) -> int:
    """Time products and decoding of each kind of quantized tensor in FILE, as shares of a plain read of their pages."""
    with store.open(file) as model:
        found = list(throughput(model, rounds=rounds))
    tokens = _tokens(file, rounds) if whole else None
    if json_:
        machine = {"kernel": kernels.active(), "threads": kernels.get_threads()}
        click.echo(as_json.dumps({**machine, "tensors": [asdict(each) for each in found], "tokens_per_second": tokens}))
        return 0
    printer = Printer()
    printer.line(f"kernel {kernels.active()}, {kernels.get_threads()} threads")
    table = Table(
        [
            Column("stored as", keep=7, elastic=True, least=12),
            Column("shape", keep=6),
            Column("n", align="right", keep=1),
            Column("operation", keep=5),
            Column("GB/s", align="right", keep=3),
            Column("of a read", align="right", keep=4),
            Column("Gweights/s", align="right", keep=2),
        ]
    )
    kind = None
    for each in found:
        speeds = (each.bytes_per_second / 1e9, each.share, each.weights_per_second / 1e9)
        about = _kind(each)
        table.add(
            *(about if about != kind else ("", "", "")),
            each.operation,
            *("–" if speed is None else f"{speed:.2f}" for speed in speeds),
        )
        kind = about
    printer.lines(table.lines(printer.width))
    if any(each.share is None for each in found):
        printer.line("–  fits the caches: no share of memory")
    if found:
        printer.line("n  tensors in rotation")
    if not found:
        printer.line("no quantized tensors")
    if tokens is not None:
        printer.line(f"prefill {tokens['prefill']:.1f} tokens/s")
        printer.line(f"decode {tokens['decode']:.1f} tokens/s")
    return 0


def _kind(each: Throughput) -> tuple[str, str, str]:
    """What is said once about the operations on a kind: how it is stored, its shape, how many there are."""
    words = [
        each.coding,
        *([] if each.bits is None else [f"{each.bits}-bit"]),
        *([] if each.group_size is None else [f"g{each.group_size}"]),
        *([] if each.layout is None else [each.layout]),
    ]
    return " ".join(words), numbers.shape(each.shape), str(each.tensors)


def _tokens(file: str, rounds: int) -> dict[str, float]:
    """Tokens per second, reading a prompt and writing on."""
    from qformat.evaluate import speed
    from qformat.torch import load_model

    return asdict(speed(load_model(file), rounds=rounds))
