"""`qformat`: finds the verb, runs it, and turns whatever goes wrong into one line and an exit code.

Exit codes: 0 ok, 1 failure (or a difference, for `diff`), 2 usage, 3 coverage or quality gate, 4 integrity,
75 interrupted but resumable, 130 stopped by Ctrl-C, 141 the reader of a pipe went away.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from qformat.text import safe_text

# verb → what it does; the module qformat.cli.<verb> has the click command `command` and is imported when it is used
VERBS = {
    "convert": "Quantize a checkpoint into a .qf file.",
    "plan": "Tell what convert would do, from headers alone.",
    "inspect": "Show what a model file holds.",
    "verify": "Check every byte of a file against its hashes.",
    "diff": "Compare two files, or a file and its source.",
    "meta": "Show or edit a file's metadata.",
    "export": "Write a plain Hugging Face directory back.",
    "bench": "Time a file's tensors on this machine.",
}

INTERRUPTED, PIPE_CLOSED = 130, 141


class Verbs(click.Group):
    """The group of verbs; a verb's module is imported only when that verb runs."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The verbs, in the order in which one meets them."""
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of a verb; only names of the table are ever imported."""
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"qformat.cli.{name}").command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of verbs in --help, without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(version_line())
        context.exit()


def version_line() -> str:
    """Version of the package, of the format, and the kernel in use."""
    from importlib.metadata import PackageNotFoundError, version

    from qformat import container, kernels

    try:
        own = version("qformat")
    except PackageNotFoundError:
        own = "(not installed)"
    return f"qformat {own}, format {'.'.join(map(str, container.VERSION))}, kernel {kernels.active()}"


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version, the format's version and the kernel in use.",
)
def cli() -> None:
    """One file for any quantized model: convert, inspect, check, compare.

    \b
    qformat convert stories/ stories.qf --method hqq --bits 4
    qformat inspect stories.qf
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; nothing but SystemExit's number ever leaves here."""
    _reopen_closed()
    _harden(sys.stdout)
    _harden(sys.stderr)
    given = sys.argv[1:] if arguments is None else list(arguments)
    collecting = gc.isenabled()
    if given[:1] == ["inspect"]:
        gc.disable()  # a short run: many imports, many small objects, no cycles
    try:
        code = _run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return PIPE_CLOSED
    except OSError as error:  # the flush: a full disk behind a redirection
        _complain(error)
        return 1
    finally:
        if collecting:
            gc.enable()
    return code


def _run(given: list[str]) -> int:
    from qformat.errors import QFormatError

    try:
        # not cli.main(): that has its own idea of broken pipes
        with cli.make_context("qformat", given) as context:
            result: Any = cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        return _usage(error)
    except click.ClickException as error:
        _complain(error.format_message())
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except QFormatError as error:
        _complain(error)
        return error.exit_code
    except OSError as error:
        _complain(_describe(error))
        return 1
    except MemoryError:
        _complain("out of memory")
        return 1
    except Exception as error:
        if os.environ.get("QFORMAT_DEBUG"):
            raise
        _complain(f"unexpected {type(error).__name__}: {error} (QFORMAT_DEBUG=1 shows where; please report it)")
        return 1
    return result if isinstance(result, int) else 0


def _usage(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return 2
    _complain(error.format_message())
    if error.ctx is not None:
        print(f"try: {safe_text(error.ctx.command_path)} --help", file=sys.stderr)
    return 2


def _describe(error: OSError) -> str:
    """An operating system's error as `file: reason`."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def _complain(text: object) -> None:
    """One line on stderr, whatever the text holds."""
    try:
        print(f"error: {safe_text(text)}", file=sys.stderr, flush=True)
    except OSError:  # nobody is left to be told
        _drop_output()


def _reopen_closed() -> None:
    """A standard stream that the caller closed leads nowhere from now on; a file of ours would get its descriptor."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _harden(stream: Any) -> None:
    """What a stream's encoding cannot show is spelled out, instead of ending the program."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter's own flush at exit stays silent."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(null, stream.fileno())
        except (OSError, ValueError, AttributeError):
            continue
    os.close(null)


def run() -> None:
    """The console script."""
    looking = sys.argv[1:2] == ["inspect"]
    if looking:
        # numpy's BLAS starts a thread for each processor when it is imported; looking multiplies nothing
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = main()
    if looking:
        sys.stderr.flush()
        os._exit(code)  # everything is written: taking ten thousand objects apart would only take time
    sys.exit(code)


if __name__ == "__main__":
    run()
