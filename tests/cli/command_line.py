"""Running the command line in tests: in this process (fast), as a process, and on a terminal of a given size."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from qformat.cli.main import main

BASE = [sys.executable, "-m", "qformat.cli.main"]


class Result(NamedTuple):
    """What a run gave back."""

    code: int
    out: str
    err: str


class _Captured(io.TextIOWrapper):
    """A stream as a pipe is: encoded text, no terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self) -> str:
        self.flush()
        raw = self.buffer
        assert isinstance(raw, io.BytesIO)
        return raw.getvalue().decode("utf-8")


def call(*arguments: object) -> Result:
    """Run in this process; stdout and stderr behave like pipes."""
    out, err = _Captured(), _Captured()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Result(code, out.text(), err.text())


def process(*arguments: object, env: dict[str, str] | None = None) -> Result:
    """Run as a process of its own."""
    done = subprocess.run(
        [*BASE, *map(str, arguments)], capture_output=True, env={**os.environ, **(env or {})}, check=False, timeout=600
    )
    return Result(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))


def terminal(
    arguments: Sequence[object], columns: int, env: dict[str, str] | None = None, folder: os.PathLike[str] | None = None
) -> str:
    """What a process prints on a terminal of `columns` columns, carriage returns of the line discipline removed."""
    import fcntl
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    full = {**os.environ, "TERM": "xterm-256color", **(env or {})}
    full.pop("COLUMNS", None)
    if env is None or "NO_COLOR" not in env:
        full.pop("NO_COLOR", None)
    child = subprocess.Popen(
        [*BASE, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env=full, cwd=folder
    )
    os.close(theirs)
    parts = []
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while part := os.read(ours, 65536):
            parts.append(part)
    os.close(ours)
    child.wait(600)
    return b"".join(parts).decode("utf-8").replace("\r\n", "\n")


def controls(text: str) -> set[str]:
    """The characters of `text` that could move a cursor, colour, reorder or hide: everything not printable but \\n."""
    return {character for character in text if character != "\n" and not character.isprintable()}
