"""A process with one model, which reads a prompt and writes on when it is told to; `rounds.Worker` is the other end.

    python benchmarks/end_to_end_worker.py SUBJECT PATH THREADS

It answers each line of JSON with one: the seconds, the first logits after the prompt, and where the cores were.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np

# (prompt ids, tokens to write) → seconds of reading, seconds of writing, logits after the prompt
Run = Callable[[list[int], int], tuple[float, float, list[float]]]

# How many logits are compared.
SEEN = 4096

# Tokens of the cache of a compiled model, which attends to all of them in every step.
CONTEXT = 256


def transformers_model(model: Any, threads: int) -> Run:
    import torch

    from qformat.evaluate import run_once

    torch.set_num_threads(threads)

    def run(prompt: list[int], new: int) -> tuple[float, float, list[float]]:
        done = run_once(model, torch.tensor([prompt]), new)
        return done.reading, done.writing, done.logits[:SEEN].float().tolist()

    return run


def ours(path: str, threads: int, mode: Any, residency: Any) -> Run:
    from qformat.torch import load_model

    return transformers_model(load_model(path, mode=mode, residency=residency), threads)


def compiled(path: str, threads: int, mode: Any) -> Run:
    """Each new token through one compiled graph, over a cache of a fixed length: as `generate` compiles its steps."""
    import torch
    from transformers import StaticCache

    from qformat.evaluate import run_once
    from qformat.torch import load_model

    model = load_model(path, mode=mode)
    torch.set_num_threads(threads)
    step = torch.compile(model.forward, dynamic=False, fullgraph=True)

    def run(prompt: list[int], new: int) -> tuple[float, float, list[float]]:
        if len(prompt) + new > CONTEXT:
            raise ValueError(f"prompt and new tokens have room for {CONTEXT}")
        cache = StaticCache(config=model.config, max_cache_len=CONTEXT)
        done = run_once(model, torch.tensor([prompt]), new, step=step, cache=cache)
        return done.reading, done.writing, done.logits[:SEEN].float().tolist()

    return run


def dense(path: str, threads: int) -> Run:
    import torch
    from transformers import AutoModelForCausalLM

    return transformers_model(AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval(), threads)


def llama(path: str, threads: int) -> Run:
    """llama.cpp with its defaults (weights repacked at load), called without anything of its Python class between.

    On processors with AMX weights stay as they are stored: with its own layouts the process ended (SIGILL, 0.3.36).
    """
    import llama_cpp as api

    api.llama_backend_init()
    how = api.llama_model_default_params()
    how.use_extra_bufts = "amx_tile" not in Path("/proc/cpuinfo").read_text()
    model = api.llama_model_load_from_file(path.encode(), how)
    if model is None:
        raise RuntimeError("llama.cpp cannot load it")
    words = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    parameters = api.llama_context_default_params()
    parameters.n_ctx, parameters.n_batch, parameters.n_threads, parameters.n_threads_batch = (
        2048,
        2048,
        threads,
        threads,
    )
    context = api.llama_init_from_model(model, parameters)

    def step(tokens: list[int]) -> np.ndarray[Any, Any]:
        ids = (api.llama_token * len(tokens))(*tokens)
        if api.llama_decode(context, api.llama_batch_get_one(ids, len(tokens))):
            raise RuntimeError("llama_decode failed")
        return np.ctypeslib.as_array(api.llama_get_logits_ith(context, -1), (words,))

    def run(prompt: list[int], new: int) -> tuple[float, float, list[float]]:
        api.llama_memory_clear(api.llama_get_memory(context), True)
        begun = time.perf_counter()
        logits = step(prompt)
        read = time.perf_counter()
        first = logits[:SEEN].tolist()
        for _ in range(new):
            logits = step([int(logits.argmax())])
        return read - begun, time.perf_counter() - read, first

    return run


SUBJECTS: dict[str, Callable[[str, int], Run]] = {
    "exact mmap": lambda path, threads: ours(path, threads, "exact", "mmap"),
    "exact hugepages": lambda path, threads: ours(path, threads, "exact", "hugepages"),
    "int8 mmap": lambda path, threads: ours(path, threads, "int8", "mmap"),
    "int8 hugepages": lambda path, threads: ours(path, threads, "int8", "hugepages"),
    "exact compiled": lambda path, threads: compiled(path, threads, "exact"),
    "int8 compiled": lambda path, threads: compiled(path, threads, "int8"),
    "dense": dense,
    "llama": llama,
}


def main() -> None:
    subject, path, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print: the answers have a stream of their own
    warnings.filterwarnings("ignore")
    run: Run | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            run = run or SUBJECTS[subject](path, int(threads))
            before, start = machine.state(), machine.others()
            reading, writing, logits = run(request["prompt"], request["new"])
            foreign, after = start.since(), machine.state()
            answer = {
                "reading": reading,
                "writing": writing,
                "logits": logits,
                "state": before if before == after else "moved",
                "others": round(foreign, 2),
            }
        except Exception as error:  # the other subjects go on without it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
