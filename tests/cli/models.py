"""Small .qf files for the tests of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat import container, linear, schemes
from qformat.codings.grammar import Affine, Block, Dense
from qformat.schemes import Scheme

AFFINE = Scheme(
    coding=Affine(bits=4, group=Block(rows=1, columns=8), scales=Dense(dtype="float16"), zeros=Dense(dtype="float16")),
    method="rtn",
)
PLAIN = Scheme(coding=Dense(dtype="float32"))
CONFIG = b'{"model_type": "llama"}\n'


def quantized(shape: tuple[int, int], seed: int) -> dict[str, NDArray[Any]]:
    """Random roles of a matrix in the scheme AFFINE."""
    random = np.random.default_rng(seed)
    groups = (shape[0], -(-shape[1] // 8))
    return {
        "codes": random.integers(0, 16, shape, np.uint8),
        "scales": random.uniform(0.01, 0.1, groups).astype(np.float16),
        "zeros": random.uniform(6, 9, groups).astype(np.float16),
    }


def write(
    path: Path, *, layers: int = 3, metadata: dict[str, Any] | None = None, seed: int = 0, change: str | None = None
) -> Path:
    """A tiny model: an embedding, layers of two quantized matrices and a norm, a tied head.

    `change` is the name of a tensor that gets other values than the seed would give.
    """
    with container.create(path) as writer:

        def dense(name: str, shape: tuple[int, ...]) -> None:
            values = np.random.default_rng(seed + (name == change)).normal(size=shape).astype(np.float32)
            writer.tensor(name, scheme=schemes.dump(PLAIN), dtype="float32", shape=shape, length=values.nbytes,
                          data=[values.tobytes()])  # fmt: skip

        writer.attachment("config.json", CONFIG)
        dense("model.embed.weight", (16, 8))
        for layer in range(layers):
            for number, (part, shape) in enumerate({"up": (24, 16), "down": (16, 24)}.items()):
                name = f"model.layers.{layer}.{part}.weight"
                data = linear.pack(AFFINE, shape, quantized(shape, seed + layer * 2 + number + 100 * (name == change)))
                writer.tensor(name, scheme=schemes.dump(AFFINE), dtype="bfloat16", shape=shape, length=len(data),
                              data=[data], error=0.05 + layer / 100, max_error=0.5)  # fmt: skip
            dense(f"model.layers.{layer}.norm.weight", (16,))
        writer.alias("head.weight", "model.embed.weight")
        writer.finish({"general.name": "tiny", "general.architecture": "llama", "general.license": "mit",
                       **(metadata or {})})  # fmt: skip
    return path
