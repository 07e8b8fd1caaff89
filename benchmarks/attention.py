"""Attention of one new token on the CPU: `sdpa` of transformers beside what `load_model` uses instead.

    python benchmarks/attention.py [--tokens 64 256 1024] [--threads 1 2] [--rounds 15]

One layer of a Llama of a billion weights in bfloat16 (32 heads of 64, on 8 of keys), over a cache of so many tokens.
Both have their turn in every round, in an order drawn anew; each turn is the mean of a hundred calls.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from statistics import median
from types import SimpleNamespace

import machine
import rounds
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from qformat.report.layout import Column, Table
from qformat.report.terminal import Printer
from qformat.torch.attention import attention

HEADS, GROUPS, WIDTH, CALLS = 32, 8, 64, 100
WAYS = {"sdpa": sdpa_attention_forward, "qformat": attention}


@torch.inference_mode()
def measure(tokens: int, count: int) -> dict[str, list[float]]:
    """Seconds of a call, by way."""
    layer = SimpleNamespace(num_key_value_groups=HEADS // GROUPS, is_causal=True)
    query = torch.randn(1, HEADS, 1, WIDTH).bfloat16()
    key, value = torch.randn(2, 1, GROUPS, tokens, WIDTH).bfloat16()
    samples: dict[str, list[float]] = defaultdict(list)
    for number in range(count + 1):
        for way in random.sample(list(WAYS), len(WAYS)):
            begun = time.perf_counter()
            for _ in range(CALLS):
                WAYS[way](layer, query, key, value, None)
            if number:  # the first round warms up
                samples[way].append((time.perf_counter() - begun) / CALLS)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    rows = []
    for threads in given.threads:
        torch.set_num_threads(threads)
        for tokens in given.tokens:
            found = measure(tokens, given.rounds)
            ratio = median(theirs / ours for theirs, ours in zip(found["sdpa"], found["qformat"], strict=True))
            micros = {way: round(1e6 * median(own), 1) for way, own in found.items()}
            rows.append({"threads": threads, "tokens": tokens, "microseconds": micros, "ratio": round(ratio, 2)})
    table = Table([Column(title, "right") for title in ("threads", "tokens", "sdpa µs", "qformat µs", "ratio")])
    for row in rows:
        table.add(
            *(
                str(each)
                for each in (row["threads"], row["tokens"], *(row["microseconds"][way] for way in WAYS), row["ratio"])
            )
        )
    printer = Printer()
    printer.lines(table.lines(printer.width))
    result = rounds.result_path("attention")
    result.write_text(json.dumps({"machine": machine.description(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
