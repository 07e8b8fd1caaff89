"""Tokens per second of a causal language model: reading a prompt and writing on."""

from __future__ import annotations

import inspect
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


@dataclass(frozen=True)
class Pass:
    """One reading and writing: the seconds of each, and the logits (vocabulary,) after the prompt."""

    reading: float
    writing: float
    logits: torch.Tensor


@torch.inference_mode()
def run_once(model: Any, prompt: torch.Tensor, new_tokens: int, *, step: Any = None, cache: Any = None) -> Pass:
    """A prompt (1, tokens) at once, then one token after the other, the likeliest, with the key-value cache.

    Args:
        step: what takes the new tokens instead of `model`: its compiled forward.
        cache: an empty one of a fixed length, which a compiled step needs.
    """
    last = (
        {"logits_to_keep": 1}
        if "logits_to_keep" in inspect.signature(getattr(model, "forward", model)).parameters
        else {}
    )
    begun = time.perf_counter()
    out = model(input_ids=prompt, use_cache=True, **last, **_places(cache, 0, prompt.shape[1]))
    read = time.perf_counter()
    logits = out.logits[0, -1]
    for at in range(prompt.shape[1], prompt.shape[1] + new_tokens):
        token = out.logits[:, -1:].float().argmax(-1)  # slow in bfloat16
        known = {"past_key_values": out.past_key_values, **_places(cache, at, at + 1)}
        out = (step or model)(input_ids=token, use_cache=True, **known)
    return Pass(read - begun, time.perf_counter() - read, logits)


def _places(cache: Any, first: int, last: int) -> dict[str, Any]:
    """A cache of a fixed length is told where the tokens go."""
    return {} if cache is None else {"past_key_values": cache, "cache_position": torch.arange(first, last)}


def random_prompt(vocabulary: int, tokens: int) -> torch.Tensor:
    """Token ids (1, tokens)."""
    return torch.randint(vocabulary, (1, tokens), generator=torch.Generator().manual_seed(0))


def speed(model: Any, *, prompt_tokens: int = 128, new_tokens: int = 32, rounds: int = 3) -> Speed:
    """Time random tokens through `model`: a prompt at once, then one token after the other with the key-value cache.

    The first round, which touches the file's pages for the first time, is not counted.
    """
    prompt = random_prompt(model.config.vocab_size, prompt_tokens)
    passes = [run_once(model, prompt, new_tokens) for _ in range(rounds + 1)][1:]
    reading, writing = (median(getattr(each, name) for each in passes) for name in ("reading", "writing"))
    return Speed(prompt_tokens / reading, new_tokens / writing)
