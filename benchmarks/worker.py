"""A process that holds the weights of one peer and times passes over them when it is told to.

Requests and answers are lines of JSON on standard input and output; `rounds.Worker` is the other end.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from typing import Any

import machine
from decoders import DECODERS
from layers import LAYERS
from peers import SUBJECTS
from subjects import Subject

ALL = {**SUBJECTS, **DECODERS, **LAYERS}

# A pass ends here even if copies are left: slow peers go on with them the next time.
SECONDS = 0.25

# The part of a pass that does not count: the probes have let the threads fall asleep.
WARMING = 0.25


class Turn:
    """A subject, and the copy that is next."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.next = subject, 0

    def over(self, calls: int, most: float) -> float:
        """Seconds per copy."""
        begun, taken, done = time.perf_counter(), 0.0, 0
        while done < calls and taken < most:
            self.subject.call(self.next)
            self.next = (self.next + 1) % (self.subject.count // self.subject.each)
            taken, done = time.perf_counter() - begun, done + 1
        return taken / done / self.subject.each

    def sample(self, threads: int, batch: int) -> dict[str, Any]:
        """One pass between two plain reads of the same pages, between two looks at where the cores are.

        The better of the reads, with and without prefetch, is what memory gives.
        """
        subject = self.subject
        subject.set_threads(threads)
        subject.set_batch(batch)
        calls = subject.count // subject.each
        before, start = machine.state(), machine.others()
        plain = [subject.plain(threads, False)]
        self.over(max(int(calls * WARMING), 1), SECONDS * WARMING)
        seconds = self.over(calls, SECONDS)
        plain.append(subject.plain(threads, True))
        foreign, after = start.since(), machine.state()
        return {
            "pages": subject.pages,
            "state": before if before == after else "moved",
            "seconds": seconds,
            "nbytes": subject.nbytes,
            "plain": max((p for p in plain if p is not None), default=None),
            "others": round(foreign, 2),
        }


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print: the answers have a stream of their own
    warnings.filterwarnings("ignore")
    turns: dict[str, Turn] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            match request["do"]:
                case "prepare":
                    _, make = ALL[request["subject"]]
                    if machine.available() < 2 * request["size"] + (1 << 30):
                        raise MemoryError(f"{machine.available() >> 20} MiB are left")
                    turns[request["subject"]] = Turn(make(tuple(request["shape"]), request["size"]))
                case "sample":
                    answer = turns[request["subject"]].sample(request["threads"], request["batch"])
                case "huge":
                    for turn in turns.values():
                        turn.subject.to_huge()
        except Exception as error:  # the other subjects go on without it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
