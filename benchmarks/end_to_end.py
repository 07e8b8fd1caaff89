"""Tokens per second of a synthetic Llama of 1.24 billion parameters, through transformers and through llama.cpp.

    python benchmarks/end_to_end.py [--rounds 5] [--prompt 64] [--new 32] [--threads 2] [--layers 16] [--folder DIR]
                                    [--only GLOB ...] [--prepare]

Ours at 4 bits (groups of 64 and 128; `exact` and `int8` activations; from the mapping, from copies on huge pages, and
from the mapping with steps that torch compiled), torch bfloat16, and llama.cpp's Q4_0 and Q4_K_M if llama-cpp-python
and gguf are installed. The weights are random; all files come from one checkpoint, and the embedding, which is the
head too, has six bits in each of them. Rounds are interleaved, each model in a process of its own that is stopped
while another one has its turn. The files are kept in --folder if it is given (--prepare makes them and no more).
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import machine
import numpy as np
import rounds
import synthetic

from qformat import kernels
from qformat.report.layout import Column, Table
from qformat.report.terminal import Printer

VOCABULARY = 128256

DENSE, Q4_0 = "torch bfloat16", "llama.cpp Q4_0"

# name → what runs it, and its file
OURS = {
    f"qformat {size} {mode}{', huge pages' * huge}": (f"{mode} {'hugepages' if huge else 'mmap'}", f"{size}.qf")
    for size in ("g64", "g128")
    for mode in ("exact", "int8")
    for huge in (False, True)
}
COMPILED = {
    f"qformat {size} {mode}, compiled": (f"{mode} compiled", f"{size}.qf")
    for size in ("g64", "g128")
    for mode in ("exact", "int8")
}
SUBJECTS = {
    **OURS,
    **COMPILED,
    DENSE: ("dense", "checkpoint"),
    Q4_0: ("llama", "Q4_0.gguf"),
    "llama.cpp Q4_K_M": ("llama", "Q4_K_M.gguf"),
}


class Worker(rounds.Worker):
    """An `end_to_end_worker.py` process, stopped while it is not asked."""

    def __init__(self, subject: str, path: Path, threads: int) -> None:
        script = Path(__file__).with_name("end_to_end_worker.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), subject, str(path), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def prepare(folder: Path, layers: int) -> None:
    """Every file that is not there yet and can be made here."""
    checkpoint = folder / "checkpoint"

    def made(name: str, make: Callable[[Path], Path]) -> Path:
        if not (folder / name).exists():
            print(f"making {name}", flush=True)
            path = make(folder / f"{name}.partial")
            if path.is_file():
                machine.rewrite(path, machine.LARGE_BLOCK)  # as `qformat convert` writes, so that all have equal pages
            path.rename(folder / name)
        return folder / name

    made("checkpoint", lambda path: synthetic.checkpoint(path, layers, VOCABULARY))
    for size in (64, 128):
        made(f"g{size}.qf", lambda path, size=size: synthetic.converted(checkpoint, path, size))
    if find_spec("llama_cpp") is None or find_spec("gguf") is None:
        print("llama.cpp is left out: it needs llama-cpp-python and gguf")
        return
    wanted = [kind for kind in ("Q4_0", "Q4_K_M") if not (folder / f"{kind}.gguf").exists()]
    if wanted:
        source = made("bfloat16.gguf", lambda path: synthetic.gguf(checkpoint, path))
        for kind in wanted:
            made(f"{kind}.gguf", lambda path, kind=kind: synthetic.requantized(source, path, kind))
        source.unlink()


def size_of(path: Path) -> int:
    """Bytes of a file, or of a checkpoint's weights."""
    return sum(part.stat().st_size for part in path.glob("*.safetensors")) if path.is_dir() else path.stat().st_size


def measure(folder: Path, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Answers by subject: all subjects in every round, in an order that is drawn anew. The first round is not kept."""
    dice = random.Random(0)
    prompt = [dice.randrange(VOCABULARY) for _ in range(options.prompt)]
    chosen = {name: SUBJECTS[name] for only in options.only for name in fnmatch.filter(SUBJECTS, only)}
    found = {name: (how, folder / file) for name, (how, file) in chosen.items() if (folder / file).exists()}
    workers = {name: Worker(how, path, options.threads) for name, (how, path) in found.items()}
    answers: dict[str, list[dict[str, Any]]] = defaultdict(list)
    try:
        for number in range(options.rounds + 1):
            order = list(workers)
            dice.shuffle(order)
            for name in order:
                answer = workers[name].ask(prompt=prompt, new=options.new if number else 2)
                if "error" in answer:
                    print(f"left out: {name}: {answer['error']}", flush=True)
                    workers.pop(name).close()
                elif number:
                    answers[name].append(answer)
    finally:
        for worker in workers.values():
            worker.close()
    return answers


def rows_of(
    answers: dict[str, list[dict[str, Any]]], folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Medians by subject and state of the host, of the samples that nobody disturbed."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for name, samples in answers.items():
        for sample in samples:
            if sample["state"] != "moved" and sample["others"] <= rounds.FOREIGN:
                groups[name, sample["state"]].append(sample)
    lost = sum(map(len, answers.values())) - sum(map(len, groups.values()))
    if lost:
        print(f"{lost} of {sum(map(len, answers.values()))} samples left out: disturbed, or the host moved the cores")
    dense = np.array(answers[DENSE][0]["logits"]) if DENSE in answers else None
    rows = []
    for (name, state), samples in groups.items():
        error = (
            None if dense is None else np.linalg.norm(np.array(samples[0]["logits"]) - dense) / np.linalg.norm(dense)
        )
        rows.append(
            {
                "subject": name,
                "state": state,
                "nbytes": size_of(folder / SUBJECTS[name][1]),
                "prefill": round(options.prompt / median(sample["reading"] for sample in samples), 2),
                "decode": round(options.new / median(sample["writing"] for sample in samples), 3),
                "error": None if error is None else round(float(error), 4),
                "samples": [
                    {key: round(sample[key], 4) for key in ("reading", "writing", "others")} for sample in samples
                ],
            }
        )
    return sorted(rows, key=lambda row: (row["state"], -row["decode"]))


def show(rows: list[dict[str, Any]]) -> None:
    """Tokens per second by state, with ratios within the state."""
    right = [("n", 1), ("GB", 3), ("prefill/s", 6), ("decode/s", 9), ("× Q4_0", 7), ("× bf16", 7), ("logits ±", 2)]
    table = Table(
        [
            Column("subject", keep=9, elastic=True, least=16),
            Column("state", keep=5),
            *(Column(name, align="right", keep=keep) for name, keep in right),
        ]
    )
    decode = {(row["subject"], row["state"]): row["decode"] for row in rows}
    for row in rows:
        ratios = [decode.get((peer, row["state"])) for peer in (Q4_0, DENSE)]
        table.add(
            row["subject"],
            row["state"],
            str(len(row["samples"])),
            f"{row['nbytes'] / 1e9:.2f}",
            f"{row['prefill']:.1f}",
            f"{row['decode']:.2f}",
            *("" if peer is None else f"{row['decode'] / peer:.2f}" for peer in ratios),
            "" if row["error"] is None else f"{row['error']:.3f}",
        )
    printer = Printer()
    printer.lines(table.lines(printer.width))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", nargs="+", default=["*"], help="subjects, as globs: '*g64*' '*Q4_0'")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, options.layers)
        if options.prepare:
            return
        rows = rows_of(measure(folder, options), folder, options)
    show(rows)
    about = {**machine.description(), "kernel": kernels.active(), "versions": rounds.versions()}
    shape = {key: getattr(options, key) for key in ("layers", "prompt", "new", "threads", "rounds")}
    out = options.out or rounds.result_path("end-to-end")
    out.parent.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    out.write_text(f'{{"machine": {json.dumps(about)},\n"run": {json.dumps(shape)},\n"rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
