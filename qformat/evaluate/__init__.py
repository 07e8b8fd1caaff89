"""Numbers about a loaded model: perplexity, divergence from a reference, speed."""

from __future__ import annotations

from qformat.evaluate.likelihood import Likelihood, kl_divergence, perplexity
from qformat.evaluate.speed import Speed, speed

__all__ = ["Likelihood", "Speed", "kl_divergence", "perplexity", "speed"]
