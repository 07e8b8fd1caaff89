"""Numbers about a loaded model: perplexity, divergence from a reference, speed."""

from __future__ import annotations

from qformat.evaluate.likelihood import Likelihood, kl_divergence, perplexity
from qformat.evaluate.speed import Pass, Speed, random_prompt, run_once, speed

__all__ = ["Likelihood", "Pass", "Speed", "kl_divergence", "perplexity", "random_prompt", "run_once", "speed"]
