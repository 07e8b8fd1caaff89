"""Opens and verifies files in a process with limits: prints a line of JSON before and after each.

python -m tests.hostile.child FILE…
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ADDRESSES = 2 << 30  # a backstop: allocators and thread stacks reserve far more than they use
SECONDS = 10


def status(field: str) -> int:
    """A size of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_of(action: Callable[[], Any]) -> tuple[Any, int]:
    """What a call returns, and by how much memory in use grew at most while it ran."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = status("VmRSS:")
    result = action()
    return result, status("VmHWM:") - before


def look(path: str) -> list[str] | None:
    """[class, message] of the first error; None if the file is whole."""
    from qformat import container
    from qformat.errors import QFormatError

    try:
        with container.open(path) as opened:
            for name in opened.names():
                opened.record(name)
            dict(opened.attachments)
            errors = opened.verify(workers=1)
            for name in opened.names():
                opened.read(name)
            if not errors:
                return None
            error: QFormatError = errors[0]
    except QFormatError as caught:
        error = caught
    return [type(error).__name__, str(error)]


def main(paths: list[str]) -> None:
    from qformat import container

    with container.open(paths[0]) as opened:  # a valid file: imports and thread stacks belong to the baseline
        opened.verify(workers=1)
    limit = status("VmSize:") + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for path in paths[1:]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        print(json.dumps([path]), flush=True)
        outcome, grown = peak_of(lambda path=path: look(path))
        print(json.dumps([path, outcome, grown]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
