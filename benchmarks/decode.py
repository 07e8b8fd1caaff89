"""Decoding to bfloat16 at the speed of writing: ours beside gguf-py and bitsandbytes, in the same rounds.

    python benchmarks/decode.py [--shape 4096x4096 …] [--rounds 4] [--mib 128] [--quick]

The share is of a plain write in the same round, the better of regular and streaming stores. `Tensor.decode` gives an
array on fresh pages, which the system has to clear first; "into memory" is `Tensor.decode(out=…)`, on pages that are
there.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import rounds
from decoders import DECODERS, OURS_DECODING


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=["4096x4096"], help="outputs x inputs")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--mib", type=int, default=128, help="stored bytes of each subject")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--quick", action="store_true", help="one shape, two threads, three rounds")
    parser.add_argument("--out", type=Path, help="JSON to add the rows to")
    given = parser.parse_args()
    if given.quick:
        given.shape, given.threads, given.rounds = given.shape[:1], [2], 3
    subjects = {name: process for name, (process, _) in DECODERS.items()}
    for shape in given.shape:
        sides = rounds.sides(shape)
        found = rounds.measure("decode", subjects, sides, given.mib << 20, given.rounds, given.threads, ("file",))
        print(f"\ndecode, {shape}")
        rounds.show(found, OURS_DECODING)
        rounds.save(given.out or rounds.result_path("decode"), given.mib, [asdict(row) for row in found])


if __name__ == "__main__":
    main()
