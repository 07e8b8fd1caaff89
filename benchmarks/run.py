"""The kernel tests, and on green the benchmarks beside the peers that are installed.

    python benchmarks/run.py [gemv | decode | prefill | all] [--quick] [options of the one script]

Tables go to the terminal, samples to `results/` with machine and date, and a plot beside those of gemv. The whole takes
about twenty minutes; `--quick` two.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS = ("gemv", "decode", "prefill")


def main() -> int:
    options = sys.argv[1:]
    name = options.pop(0) if options and not options[0].startswith("-") else "all"
    if name not in (*BENCHMARKS, "all"):
        print(f"no benchmark is called {name}: {', '.join(BENCHMARKS)}, all", file=sys.stderr)
        return 2
    if "-h" not in options and "--help" not in options:
        tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/kernels"], cwd=HERE.parent)
        if tests.returncode:
            print("the kernel tests are red: nothing is measured", file=sys.stderr)
            return 1
    for each in BENCHMARKS if name == "all" else (name,):
        done = subprocess.run([sys.executable, str(HERE / f"{each}.py"), *options])
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
