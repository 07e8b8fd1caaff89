"""The kernel tests, and on green the benchmarks: refuses to report figures of kernels that are wrong.

    python benchmarks/run.py [gemv] [options of benchmarks/gemv.py]

Without --shape every shape of the table is measured.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHAPES = ("4096x4096", "14336x4096", "4096x14336")


def main() -> int:
    options = sys.argv[1:]
    if options and not options[0].startswith("-"):
        name = options.pop(0)
        if name != "gemv":
            print(f"no benchmark is called {name}: gemv", file=sys.stderr)
            return 2
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/kernels"], cwd=HERE.parent)
    if tests.returncode:
        print("the kernel tests are red: nothing is measured", file=sys.stderr)
        return 1
    shapes = [[]] if "--shape" in options else [["--shape", shape] for shape in SHAPES]
    for shape in shapes:
        subprocess.run([sys.executable, str(HERE / "gemv.py"), *shape, *options], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
