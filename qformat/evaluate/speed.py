"""Tokens per second of a causal language model: reading a prompt and writing on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch


@dataclass(frozen=True)
class Speed:
    """Tokens per second, medians over the rounds."""

    prefill: float
    decode: float


@torch.inference_mode()
def speed(model: Any, *, prompt_tokens: int = 128, new_tokens: int = 32, rounds: int = 3, seed: int = 0) -> Speed:
    """Time random tokens through `model`: a prompt at once, then one token after the other with the key-value cache.

    The first round, which touches the file's pages for the first time, is not counted.
    """
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(model.config.vocab_size, (1, prompt_tokens), generator=generator)
    reading, writing = [], []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        out = model(input_ids=prompt, use_cache=True)
        read = time.perf_counter()
        for _ in range(new_tokens):
            token = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
        reading.append(read - begun)
        writing.append(time.perf_counter() - read)
    return Speed(prompt_tokens / median(reading[1:]), new_tokens / median(writing[1:]))
