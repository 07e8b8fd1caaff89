"""Interleaved rounds over subjects in processes of their own, and the medians, tables and files made of the samples."""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import machine

from qformat import kernels
from qformat.report.layout import Column, Table
from qformat.report.terminal import Printer

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"

# Cores that other processes may have had in a round that counts (ticks are coarse).
FOREIGN = 0.3

PACKAGES = ("torch", "bitsandbytes", "onnxruntime", "llama-cpp-python", "aqlm", "numba", "gguf")

ENVIRONMENT = {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}

# onnxruntime does not tell where its packed weights lie: as mappings of their own they can be found.
FINDABLE = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


def environment(process: str) -> dict[str, str]:
    own = FINDABLE if process == "onnxruntime" else {}
    return {**os.environ, **ENVIRONMENT, **own, "PLAIN_READ": str(machine.library())}


class Worker:
    """A `worker.py` process, stopped while it is not asked: the threads of some libraries spin long after a call."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(name),
            text=True,
        )

    def ask(self, **request: object) -> dict[str, Any]:
        """Its answer; {"error": …} if it says so or has died."""
        assert self.process.stdin and self.process.stdout
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            self.process.send_signal(signal.SIGCONT)
            line = self.process.stdout.readline()
            self.process.send_signal(signal.SIGSTOP)
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"the process died ({self.process.wait()})"}
        return answer

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.send_signal(signal.SIGCONT)
        self.process.wait()


@dataclass
class Row:
    """Samples of one subject on one kind of pages, with one count of threads, in one state of the host."""

    piece: str
    subject: str
    shape: tuple[int, int]
    pages: str
    threads: int
    batch: int
    state: str
    bits: float
    seconds: list[float]
    plain: list[float | None]
    others: list[float]

    @property
    def weights_per_second(self) -> float:
        return self.shape[0] * self.shape[1] / median(self.seconds)

    @property
    def bytes_per_second(self) -> float:
        return self.weights_per_second * self.bits / 8

    @property
    def plain_speed(self) -> float:
        """Bytes per second of the plain read or write."""
        return median(p for p in self.plain if p is not None)

    @property
    def limit(self) -> float:
        """Weights per second at that speed."""
        return self.plain_speed * 8 / self.bits

    @property
    def share(self) -> float:
        """Of the plain read or write in the same round."""
        nbytes = self.shape[0] * self.shape[1] * self.bits / 8
        return median(nbytes / s / p for s, p in zip(self.seconds, self.plain, strict=True) if p is not None)


def measure(
    piece: str,
    subjects: dict[str, str],
    shape: tuple[int, int],
    size: int,
    rounds: int,
    threads: Sequence[int] = (2, 1),
    pages: Sequence[str] = ("file", "huge"),
    batches: Sequence[int] = (1,),
) -> list[Row]:
    """All subjects in every round, in an order that is drawn anew; those that cannot be had are reported.

    `subjects` maps names to processes. In the rounds of "file" the weights lie in a file mapping or where the subject
    has allocated them; then all are moved to huge pages.
    """
    workers = {process: Worker(process) for process in dict.fromkeys(subjects.values())}
    samples: list[tuple[str, int, int, dict[str, Any]]] = []
    try:
        there = [s for s in subjects if _prepare(workers[subjects[s]], s, shape, size)]
        dice = random.Random(0)
        for kind in pages:
            if kind == "huge":
                gone = {p for p, worker in workers.items() if _failed(p, worker.ask(do="huge"))}
                there = [s for s in there if subjects[s] not in gone]
            for _ in range(rounds):
                turns = [(s, t, b) for s in there for t in threads for b in batches]
                dice.shuffle(turns)
                for subject, count, batch in turns:
                    answer = workers[subjects[subject]].ask(do="sample", subject=subject, threads=count, batch=batch)
                    if not _failed(subject, answer):
                        samples.append((subject, count, batch, answer))
    finally:
        for worker in workers.values():
            worker.close()
    return _rows(piece, shape, samples)


def _prepare(worker: Worker, subject: str, shape: tuple[int, int], size: int) -> bool:
    return not _failed(subject, worker.ask(do="prepare", subject=subject, shape=shape, size=size))


def _failed(subject: str, answer: dict[str, Any]) -> bool:
    if "error" in answer:
        print(f"left out: {subject}: {answer['error']}", flush=True)
    return "error" in answer


def _rows(piece: str, shape: tuple[int, int], samples: list[tuple[str, int, int, dict[str, Any]]]) -> list[Row]:
    """Samples by subject, pages, threads and state, without those that others disturbed or that saw two states."""
    found: dict[tuple[str, str, int, int, str], list[dict[str, Any]]] = defaultdict(list)
    for subject, threads, batch, sample in samples:
        if sample["state"] != "moved" and sample["others"] <= FOREIGN:
            found[subject, sample["pages"], threads, batch, sample["state"]].append(sample)
    moved = sum(sample["state"] == "moved" for *_, sample in samples)
    lost = len(samples) - sum(map(len, found.values()))
    if lost:
        print(f"{lost} of {len(samples)} samples left out: other processes ran, or the host moved the cores ({moved})")
    return [
        Row(
            piece,
            subject,
            shape,
            pages,
            threads,
            batch,
            state,
            group[0]["nbytes"] * 8 / shape[0] / shape[1],
            *([s[field] for s in group] for field in ("seconds", "plain", "others")),
        )
        for (subject, pages, threads, batch, state), group in found.items()
    ]


def ratio(row: Row, rows: Iterable[Row], ours: Iterable[str]) -> float | None:
    """How many times as many weights per second as the fastest peer in the same state, on the same kind of pages.

    A peer may be faster on one thread than on two: it has as many threads as ours at most.
    """
    kinds = ("huge",) if row.pages == "huge" else ("file", "heap")
    peers = [
        r.weights_per_second
        for r in rows
        if (r.piece, r.shape, r.batch, r.state) == (row.piece, row.shape, row.batch, row.state)
        and r.pages in kinds
        and r.threads <= row.threads
        and r.subject not in ours
    ]
    return row.weights_per_second / max(peers) if peers and row.subject in ours else None


def show(rows: list[Row], ours: Iterable[str]) -> None:
    """Medians as a table that fits the terminal; the fastest first, by pages, threads and state."""
    table = Table(
        [
            Column("subject", keep=9, elastic=True, least=16),
            Column("pages", keep=7),
            Column("threads", align="right", keep=7),
            Column("state", keep=6),
            Column("n", align="right", keep=1),
            Column("GB/s", align="right", keep=3),
            Column("plain", align="right", keep=2),
            Column("share", align="right", keep=5),
            Column("Gw/s", align="right", keep=8),
            Column("× peer", align="right", keep=4),
        ]
    )
    order = {"file": 0, "heap": 0, "huge": 1}
    for row in sorted(rows, key=lambda r: (order[r.pages], -r.threads, r.state, -r.weights_per_second)):
        times = ratio(row, rows, ours)
        table.add(
            row.subject,
            row.pages,
            str(row.threads),
            row.state,
            str(len(row.seconds)),
            f"{row.bytes_per_second / 1e9:.1f}",
            f"{row.plain_speed / 1e9:.1f}",
            f"{row.share:.2f}",
            f"{row.weights_per_second / 1e9:.1f}",
            "" if times is None else f"{times:.2f}",
        )
    printer = Printer()
    printer.lines(table.lines(printer.width))


# -- files -------------------------------------------------------------------------------------------------------------


def result_path(benchmark: str) -> Path:
    """Where the figures of today and of this machine go."""
    about = machine.description()
    slug = "-".join("".join(c if c.isalnum() else " " for c in about["cpu"].lower()).split())
    return RESULTS / f"{about['date']}-{slug}-{benchmark}.json"


def save(path: Path, mib: int, rows: list[dict[str, Any]]) -> None:
    """Add rows to a file, in place of the older ones of the same pieces and shapes."""
    about = {**machine.description(), "kernel": kernels.active(), "mib": mib, "versions": versions()}
    new = {(row["piece"], tuple(row["shape"])) for row in rows}
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = [row for row in old if (row["piece"], tuple(row["shape"])) not in new]
    order = list(dict.fromkeys(row["piece"] for row in old + rows))
    path.parent.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(_rounded(row)) for row in sorted(kept + rows, key=lambda r: order.index(r["piece"])))
    path.write_text(f'{{"machine": {json.dumps(about)},\n"rows": [\n{lines}\n]}}\n')


def load(path: Path) -> list[Row]:
    """What `save` wrote."""
    rows = json.loads(path.read_text())["rows"]
    return [Row(**{**row, "shape": tuple(row["shape"])}) for row in rows]


def versions() -> dict[str, str]:
    """Of the peers that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def sides(shape: str) -> tuple[int, int]:
    """(outputs, inputs) of a text like 14336x4096."""
    rows, inputs = shape.split("x")
    return int(rows), int(inputs)


def _rounded(value: Any) -> Any:
    """Floats to five digits: more is noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
