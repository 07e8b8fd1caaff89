"""The door: verbs, exit codes, one-line errors, broken pipes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from qformat import errors
from qformat.cli import main as door
from tests.cli import models
from tests.cli.command_line import BASE, call, controls, process


def test_without_a_verb_usage_is_shown() -> None:
    result = call()
    assert result.code == 2
    assert "Usage: qformat" in result.out + result.err


def test_help_lists_the_verbs_without_importing_them() -> None:
    script = (
        "import sys\nfrom qformat.cli.main import main\ncode = main(['--help'])\n"
        "loaded = [n for n in sys.modules if n.startswith('qformat.cli.') and n != 'qformat.cli.main']\n"
        "assert not loaded and 'numpy' not in sys.modules and code == 0, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for verb, what in door.VERBS.items():
        assert f"{verb} " in done.stdout
        assert what in done.stdout


@pytest.mark.parametrize("verb", door.VERBS)
def test_every_verb_has_help(verb: str) -> None:
    result = call(verb, "--help")
    assert result.code == 0
    assert f"Usage: qformat {verb}" in result.out
    assert door.VERBS[verb].rstrip(".") in (
        door.cli.get_command(click.Context(door.cli), verb) or click.Command("x")
    ).get_short_help_str(99)


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["inspect"], ["inspect", "--nonsense", "x"], ["inspect", "a", "b"], ["verify"], ["diff", "a"],
     ["meta"], ["meta", "x.qf", "fly"], ["meta", "x.qf", "set", "key"],
     ["inspect", "--tensor", "a", "--json", "x.qf"], ["verify", "x", "-j", "0"], ["../x"],
     ["convert", "a", "b", "--max-error", "nan"], ["diff", "a", "b", "--tolerance", "nan"]],
)  # fmt: skip
def test_wrong_usage_is_two(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ") or "Usage:" in result.err


@pytest.mark.parametrize("verb", ["inspect", "verify", "diff", "meta"])
def test_a_missing_file_is_one_line(verb: str) -> None:
    result = call(verb, "no such\x1b[31m file.qf", *(["also missing.qf"] if verb == "diff" else []))
    assert result.code == 1
    assert result.out == ""
    assert result.err.startswith("error: no such\\x1b[31m file.qf: ")
    assert result.err.count("\n") == 1
    assert not controls(result.err)


def _command(error: BaseException) -> click.Command:
    @click.command("inspect")
    def command() -> None:
        raise error

    return command


FAILURES = [
    (errors.QFormatError("x"), 1),
    (errors.InvalidFileError("x"), 4),
    (errors.LimitError("x"), 4),
    (errors.IntegrityError("x"), 4),
    (errors.ChangedError("x"), 4),
    (errors.UnsupportedError("x"), 1),
    (errors.SourceError("x"), 1),
    (errors.RecipeError("x"), 2),
    (errors.CoverageError("x"), 3),
    (errors.OutputError("x"), 1),
    (errors.InterruptedRunError("x"), 75),
    (errors.KernelError("x"), 1),
    (OSError(28, "No space left on device"), 1),
    (MemoryError(), 1),
    (RecursionError("deep"), 1),
    (ZeroDivisionError("a\x1bb\nc"), 1),
    (click.UsageError("x"), 2),
    (click.ClickException("x\x1b"), 1),
]


@pytest.mark.parametrize(("error", "code"), FAILURES, ids=lambda value: type(value).__name__)
def test_errors_are_one_line_and_their_code(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door.Verbs, "get_command", lambda *_: _command(error))
    result = call("inspect")
    assert result.code == code
    assert result.err.startswith("error: ")
    assert result.err.splitlines()[0].isprintable()
    assert result.err.count("\n") == (2 if isinstance(error, click.UsageError) else 1)
    assert "Traceback" not in result.err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()], ids=["ctrl-c", "abort"])
def test_interrupted_is_130(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door.Verbs, "get_command", lambda *_: _command(error))
    assert call("inspect") == (130, "", "")


def test_every_class_of_error_has_its_code_tested() -> None:
    def tree(kind: type[errors.QFormatError]) -> set[type[errors.QFormatError]]:
        return {kind}.union(*(tree(below) for below in kind.__subclasses__()))

    library = {kind for kind in tree(errors.QFormatError) if kind.__module__.startswith("qformat.")}
    assert library <= {type(error) for error, _ in FAILURES}


def test_a_full_disk_behind_a_redirection_is_an_error(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*BASE, "--help"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"\n") == 1


def test_ascii_output_is_possible(tmp_path: Path) -> None:
    assert process("--help", env={"PYTHONIOENCODING": "ascii"}).code == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_closed(closed: str, tmp_path: Path) -> None:
    """What would be shown there is lost; codes and files are what they are, and no file takes a stream's place."""
    path = models.write(tmp_path / "x.qf", layers=1)
    before = path.read_bytes()
    for arguments, code in (("--help", 0), (f"inspect {path}", 0), (f"verify {path}", 0), ("inspect absent.qf", 1)):
        command = f"{shlex.join(BASE)} {arguments} {closed}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr and "unexpected" not in done.stderr
    assert path.read_bytes() == before
