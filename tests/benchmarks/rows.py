"""Samples as a worker gives them, and rows as they become."""

from __future__ import annotations

from typing import Any

from rounds import Row

SHAPE = (64, 32)


def sample(**changed: Any) -> dict[str, Any]:
    """What a worker says of one turn."""
    return {"pages": "file", "state": "1CCD", "seconds": 1e-6, "nbytes": 1024, "plain": 2e9, "others": 0.0, **changed}


def row(subject: str, seconds: float = 1e-6, **changed: Any) -> Row:
    """One subject at 4 bits a weight, measured three times."""
    about: dict[str, Any] = {
        "piece": "gemv 4", "shape": SHAPE, "pages": "file", "threads": 2, "batch": 1, "state": "1CCD", "bits": 4.0,
        "seconds": [seconds / 2, seconds, 9 * seconds], "plain": [2e9, 2e9, None], "others": [0.0] * 3,
    }  # fmt: skip
    return Row(subject=subject, **{**about, **changed})
