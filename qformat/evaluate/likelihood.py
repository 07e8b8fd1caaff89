"""How well a causal language model predicts a text, and how far it is from another model doing so."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Likelihood:
    """The negative log-likelihood (nats) of `tokens` tokens that spell `n_bytes` bytes."""

    nats: float
    tokens: int
    n_bytes: int

    @property
    def perplexity(self) -> float:
        """exp of the mean over tokens: comparable between models with the same tokenizer."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between all models."""
        return self.nats / math.log(2) / self.n_bytes


def encode(tokenizer: Any, text: str) -> list[int]:
    """The whole text as token ids, without special tokens of the tokenizer's own."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def windows(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(start, scored, stop): of tokens start … stop − 1 the model sees all but the last; from scored on they count.

    Every token but the first is scored once; with a stride below the window, after at least window − stride others.
    """
    if not 0 < stride <= window:
        raise ValueError(f"window {window} and stride {stride}, expected 0 < stride ≤ window")
    scored = 1
    while scored < length:
        stop = min(scored + (window if scored == 1 else stride), length)
        yield max(stop - 1 - window, 0), scored, stop
        scored = stop


@torch.inference_mode()
def perplexity(
    model: Any,
    tokenizer: Any,
    text: str,
    *,
    window: int = 512,
    stride: int | None = None,
    start_token: int | None = None,
) -> Likelihood:
    """The likelihood of `text`, read in windows.

    Args:
        model: a transformers causal language model; ids (1, n) → `.logits` (1, n, vocabulary).
        tokenizer: its tokenizer.
        text: as it is; no special tokens are put in.
        window: tokens that the model sees at a time.
        stride: tokens scored of each window; None for all of them, the fastest.
        start_token: an id to put before the first token, so that it is scored too.

    Raises:
        ValueError: fewer than two tokens, or a window that makes no sense.
    """
    ids = encode(tokenizer, text)
    if start_token is None:
        n_bytes = len(tokenizer.decode(ids[1:]).encode())
    else:
        ids, n_bytes = [start_token, *ids], len(text.encode())
    if len(ids) < 2:
        raise ValueError("the text has no token to score")
    nats = 0.0
    for start, scored, stop in windows(len(ids), window, stride or window):
        piece = torch.tensor([ids[start:stop]])
        logs = _log_probabilities(model, piece, scored - start)
        nats -= float(logs.gather(1, piece[0, scored - start :, None]).sum(dtype=torch.float64))
    return Likelihood(nats, len(ids) - 1, n_bytes)


@torch.inference_mode()
def kl_divergence(
    reference: Any, model: Any, tokenizer: Any, text: str, *, window: int = 512, stride: int | None = None
) -> float:
    """The mean over the tokens of `text` of KL(reference ‖ model) of the next-token distributions, in nats."""
    ids = encode(tokenizer, text)
    if len(ids) < 2:
        raise ValueError("the text has no token to score")
    total = 0.0
    for start, scored, stop in windows(len(ids), window, stride or window):
        piece = torch.tensor([ids[start:stop]])
        theirs, ours = (_log_probabilities(each, piece, scored - start) for each in (reference, model))
        total += float((theirs.exp() * (theirs - ours)).sum(dtype=torch.float64))
    return total / (len(ids) - 1)


def _log_probabilities(model: Any, ids: torch.Tensor, first: int) -> torch.Tensor:
    """Log-probabilities (n − first, vocabulary), float32, for the places from `first` on, each given those before."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return torch.log_softmax(logits[0, first - 1 :].float(), dim=-1)
