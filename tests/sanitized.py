"""The native modules' tests with AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/sanitized.py build/sanitized [pytest arguments]

runs them in an interpreter that has the sanitizers' runtime loaded; there this file is a pytest plugin that gives the
package the modules of that build instead of the installed ones; what was not built stays as it is installed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/kernels",
    "tests/converters/methods/test_native.py",
    "tests/container",
    "tests/codings",
    "tests/hostile",
)

# What a module is called, and its folder in the build.
MODULES = {
    "qformat.kernels._native": "kernels",
    "qformat.container._native": "container",
    "qformat.converters.methods._native": "methods",
}


class Sanitized:
    """A finder of the modules in MODULES."""

    def __init__(self, build: Path) -> None:
        self.build = build

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in MODULES:
            return None
        found = list((self.build / MODULES[name]).glob("_native*.so"))
        return importlib.util.spec_from_file_location(name, found[0]) if found else None


def main() -> int:
    build = Path(sys.argv[1]).resolve()
    built = [name for name, folder in MODULES.items() if list((build / folder).glob("_native*.so"))]
    if not built:
        print(f"{build}: no module was built there", file=sys.stderr)
        return 2
    print("with sanitizers:", ", ".join(built), flush=True)
    # libstdc++ too: the runtime looks for its __cxa_throw when the interpreter starts, and Python is a C program.
    runtime = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(runtime),
        "QFORMAT_SANITIZED": str(build),
        # CPython does not free all that it has at exit; the guard of mappings answers bus errors itself; hostile cases
        # have a limit of memory, in which freed blocks that are kept to find their users would count
        "ASAN_OPTIONS": "detect_leaks=0:handle_sigbus=0:allocator_may_return_null=1:quarantine_size_mb=8",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [sys.executable, "-m", "pytest", "-p", "tests.sanitized", "-q", *(sys.argv[2:] or TESTS)]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
elif "QFORMAT_SANITIZED" in os.environ:
    sys.meta_path.insert(0, Sanitized(Path(os.environ["QFORMAT_SANITIZED"])))
