"""`qformat verify`: every byte of a file against its hashes."""

from __future__ import annotations

import sys
import time

import click

from qformat import store, verification
from qformat.errors import IntegrityError, QFormatError, UnsupportedError
from qformat.report import as_json, numbers
from qformat.report.progress import Progress
from qformat.report.terminal import Printer
from qformat.text import safe_text


@click.command("verify", short_help="Check every byte of a file against its hashes.")
@click.argument("file")
@click.option("--digest", metavar="HEX", help="Also demand this digest (of the whole file, as inspect shows it).")
@click.option("--json", "json_", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-j", "--workers", type=click.IntRange(1, 256), help="Threads; by default one for each processor.")
def command(file: str, digest: str | None, json_: bool, quiet: bool, workers: int | None) -> int:
    """Check every byte of FILE against its hashes, and that its numbers make sense; name every bad tensor.

    Only a digest that you know from elsewhere tells that a file is the one you mean: hashes inside a file tell that
    it is whole.
    """
    start = time.perf_counter()
    with store.open(file) as model:
        total, tensors, found = model.container.size, len(model), model.digest
        with Progress(total, "verify", quiet=quiet or json_) as line:
            bad = verification.faults(model, workers=workers, progress=line.update)
        unread = _unread(model)
    if digest is not None and digest.lower() != found:
        bad.insert(0, IntegrityError("not the file that was asked for", file=file, field="digest",
                                     expected=digest, found=found))  # fmt: skip
    elapsed = time.perf_counter() - start
    if json_:
        _print_json(file, found, total, tensors, bad, unread)
    else:
        _print(file, total, tensors, bad, unread, elapsed, quiet)
    if not bad:
        return 0
    named = len({error.tensor for error in bad if error.tensor is not None})
    what = f", {numbers.plural(named, 'bad tensor')}" if named else ""
    print(f"error: {safe_text(file)}: {numbers.plural(len(bad), 'problem')}{what}", file=sys.stderr)
    return IntegrityError.exit_code


def _unread(model: store.Model) -> list[str]:
    """Tensors that only a newer version can decode: their bytes are verified, their numbers are not."""
    later = set()
    for number in range(len(model.container.schemes)):
        try:
            model.scheme(number)
        except UnsupportedError:
            later.add(number)
        except QFormatError:
            continue  # a fault of the tensors that use it, and reported as such
    return [name for name in model if model.container.record(name).scheme in later] if later else []


def _print(
    file: str, total: int, tensors: int, bad: list[QFormatError], unread: list[str], elapsed: float, quiet: bool
) -> None:
    printer = Printer()
    for error in bad:
        printer.line(("bad  ", "bad"), str(error))
    if not bad and not quiet:
        rest = f"{numbers.plural(tensors, 'tensor')}, {numbers.size(total)} in {numbers.seconds(elapsed)}"
        printer.ok(f"{file}: {rest} ({numbers.rate(total, elapsed)})")
        if unread:
            names = ", ".join(safe_text(name) for name in unread[:5]) + (" …" if len(unread) > 5 else "")
            note = f"{numbers.plural(len(unread), 'tensor')} of a later version, verified as bytes only: {names}"
            printer.line(("note  ", "warn"), note)


def _print_json(file: str, digest: str, total: int, tensors: int, bad: list[QFormatError], unread: list[str]) -> None:
    result = {
        "file": file,
        "ok": not bad,
        "digest": digest,
        "total_bytes": total,
        "tensors": tensors,
        "verified_as_bytes_only": unread,
        "errors": [
            {
                "kind": type(error).__name__,
                "tensor": error.tensor,
                "field": error.field,
                "offset": error.offset,
                "message": str(error),
            }
            for error in bad
        ],
    }
    click.echo(as_json.dumps(result))
