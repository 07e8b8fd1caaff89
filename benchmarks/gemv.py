"""Products with one vector at the speed of memory: ours beside the peers, in the same rounds on the same kind of pages.

    python benchmarks/gemv.py [--piece four …] [--shape 4096x4096 …] [--rounds 5] [--mib 1024] [--threads 2 1] [--quick]

Every subject has `--mib` of distinct tensors in rotation, in a process for each library. In a round each one has its
turn, in an order drawn anew: a look at where the host has the cores, a plain read of its pages, one pass over its
tensors, and both again; so a share compares neighbours in time. Ours are called as a user calls them, `Tensor.matvec`;
llama.cpp and onnxruntime run all tensors in one graph and pay no Python.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import rounds
from peers import SUBJECTS
from plot import plot
from subjects import OURS, STRIPS

SHAPES = ("4096x4096", "14336x4096", "4096x14336")

# Peers beside ours at equal bits per weight.
PIECES: dict[str, list[str]] = {
    "eight": ["affine 8 g128", "affine 8 g64", "llama.cpp q8_0", "onnxruntime 8 bits"],
    "four": [
        "affine 4 g128", "affine 4 g64", "llama.cpp q4_0", "llama.cpp q4_K", "llama.cpp q4_0 repacked",
        "llama.cpp q4_K repacked", "onnxruntime 4 bits",
    ],
    "exact": ["affine 4 g128 exact", "nf4 g64", "torch bf16", "torch int4pack", "bitsandbytes nf4"],
    "three": ["affine 3 g128", "affine 3 g64", "llama.cpp q3_K"],
    "two": ["affine 2 g128", "affine 2 g64", "llama.cpp q2_K", "llama.cpp q2_K repacked", "onnxruntime 2 bits"],
    "additive": ["additive 2x8 g8", "additive 4x4 g8", "additive 8x4 g16", "llama.cpp iq2_xxs", "aqlm 2x8"],
    "one book": ["additive 1x16 g8", "aqlm 1x16"],
    "strips": list(STRIPS),
}  # fmt: skip

# Without peers, and slower than memory: measured where they are asked for.
ALONE = ("strips",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--piece", nargs="+", choices=PIECES, default=[piece for piece in PIECES if piece not in ALONE])
    parser.add_argument("--shape", nargs="+", default=list(SHAPES), help="outputs x inputs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024, help="distinct tensors of each subject")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--pages", nargs="+", choices=("file", "huge"), default=["file", "huge"])
    parser.add_argument("--quick", action="store_true", help="one shape, two threads, 256 MiB, three rounds")
    parser.add_argument("--out", type=Path, help="JSON to add the rows to")
    given = parser.parse_args()
    if given.quick:
        given.shape, given.threads, given.mib, given.rounds = given.shape[:1], [2], 256, 3
    out = given.out or rounds.result_path("gemv")
    for shape in given.shape:
        for piece in given.piece:
            begun = time.perf_counter()
            subjects = {name: SUBJECTS[name][0] for name in PIECES[piece]}
            sides = rounds.sides(shape)
            found = rounds.measure(piece, subjects, sides, given.mib << 20, given.rounds, given.threads, given.pages)
            print(f"\n{piece}, {shape}: {time.perf_counter() - begun:.0f} s")
            rounds.show(found, OURS)
            rounds.save(out, given.mib, [asdict(row) for row in found])
    try:
        print(plot(out, rounds.sides(given.shape[0])))
    except (ImportError, ValueError) as error:
        print(f"no plot: {error}")


if __name__ == "__main__":
    main()
