"""The measures against their definitions."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qformat.evaluate import kl_divergence, perplexity, speed
from qformat.evaluate.likelihood import windows


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode()


class Looks:
    """A model with random logits for each token and how many came before it: it shows what context it was given."""

    def __init__(self, seed: int = 0) -> None:
        self.table = torch.randn(128, 128, generator=torch.Generator().manual_seed(seed))
        self.seen: list[int] = []
        self.config = SimpleNamespace(vocab_size=128)

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
        self.seen.append(input_ids.shape[1])
        return SimpleNamespace(logits=self.table[input_ids], past_key_values=None)


@given(length=st.integers(0, 60), window=st.integers(1, 20), data=st.data())
def test_every_token_but_the_first_is_scored_once(length: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    scored = []
    for start, first, stop in windows(length, window, stride):
        assert 0 <= start < first < stop <= length
        assert stop - 1 - start <= window
        assert first - start >= min(first, window - stride + 1)  # context
        scored += range(first, stop)
    assert scored == list(range(1, length))


@given(text=st.text(st.characters(max_codepoint=127), min_size=2, max_size=60), window=st.integers(1, 20))
def test_perplexity_is_the_mean_over_all_tokens(text: str, window: int) -> None:
    """A model without memory gives the same number in any windows: that of the definition."""
    model, ids = Looks(), list(text.encode())
    logs = torch.log_softmax(model.table, -1)
    nats = -sum(float(logs[a, b]) for a, b in pairwise(ids))
    found = perplexity(model, Bytes(), text, window=window)
    assert found.tokens == len(ids) - 1
    assert found.perplexity == pytest.approx(math.exp(nats / found.tokens), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / found.n_bytes, rel=1e-4)
    assert max(model.seen) <= window
    start = perplexity(model, Bytes(), text, window=window, start_token=0)
    assert start.tokens == start.n_bytes == len(ids)


def test_divergence_is_zero_from_itself_only() -> None:
    text = "some text to be read in windows"
    assert kl_divergence(Looks(), Looks(), Bytes(), text, window=8) == pytest.approx(0, abs=1e-6)
    p, q = (torch.log_softmax(Looks(seed).table[list(text.encode())[:-1]], -1) for seed in (0, 1))
    expected = float((p.exp() * (p - q)).sum(-1).mean())
    assert kl_divergence(Looks(0), Looks(1), Bytes(), text, window=8, stride=3) == pytest.approx(expected, rel=1e-4)


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="no token"):
        perplexity(Looks(), Bytes(), "a")
    with pytest.raises(ValueError, match="stride"):
        perplexity(Looks(), Bytes(), "abc", window=4, stride=5)


def test_speed_counts_tokens() -> None:
    found = speed(Looks(), prompt_tokens=8, new_tokens=3, rounds=1)
    assert found.prefill > 0
    assert found.decode > 0
