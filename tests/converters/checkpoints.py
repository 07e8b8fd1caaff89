"""Small checkpoints made on the spot: safetensors by hand (so they can be wrong), Hugging Face directories, models."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

STORIES = Path(__file__).parents[1] / "data" / "stories260K"
DTYPE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "bool": "BOOL",
               "complex64": "C64"}  # fmt: skip


def raw_safetensors(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A file of exactly this header (an object, or bytes as they are) and data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def save(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A well-formed safetensors file in the order given."""
    header, position = {}, 0
    for name, array in tensors.items():
        header[name] = entry(DTYPE_NAMES[array.dtype.name], list(array.shape), position, position + array.nbytes)
        position += array.nbytes
    raw = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(raw)) + raw)
        for array in tensors.values():
            stream.write(np.ascontiguousarray(array).tobytes())
    return path


def llama(
    layers: int = 2,
    hidden: int = 64,
    mlp: int = 96,
    vocab: int = 50,
    seed: int = 0,
    dtype: Any = ml_dtypes.bfloat16,
    tied: bool = True,
) -> dict[str, np.ndarray]:
    """Random weights under a Llama's names."""
    rng = np.random.default_rng(seed)

    def make(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape, np.float32) * 0.05).astype(dtype)

    tensors = {"model.embed_tokens.weight": make(vocab, hidden)}
    for i in range(layers):
        base = f"model.layers.{i}"
        for part, shape in (
            ("q_proj", (hidden, hidden)),
            ("k_proj", (hidden // 2, hidden)),
            ("v_proj", (hidden // 2, hidden)),
            ("o_proj", (hidden, hidden)),
        ):
            tensors[f"{base}.self_attn.{part}.weight"] = make(*shape)
        tensors[f"{base}.mlp.gate_proj.weight"] = make(mlp, hidden)
        tensors[f"{base}.mlp.up_proj.weight"] = make(mlp, hidden)
        tensors[f"{base}.mlp.down_proj.weight"] = make(hidden, mlp)
        tensors[f"{base}.input_layernorm.weight"] = np.ones(hidden, dtype)
        tensors[f"{base}.post_attention_layernorm.weight"] = np.ones(hidden, dtype)
    tensors["model.norm.weight"] = np.ones(hidden, dtype)
    if not tied:
        tensors["lm_head.weight"] = make(vocab, hidden)
    return tensors


def directory(
    root: Path, tensors: dict[str, np.ndarray], config: dict[str, Any] | None = None, shards: int = 1
) -> Path:
    """A Hugging Face directory with config and tokenizer, in one file or in shards with an index."""
    root.mkdir(parents=True, exist_ok=True)
    hidden = next((t.shape[-1] for t in tensors.values() if t.ndim == 2), 1)
    made = {"model_type": "llama", "hidden_size": int(hidden), "architectures": ["LlamaForCausalLM"], **(config or {})}
    (root / "config.json").write_text(json.dumps(made))
    (root / "tokenizer.json").write_text('{"version": "1.0"}')
    if shards == 1:
        save(root / "model.safetensors", tensors)
        return root
    weight_map = {}
    names = list(tensors)
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        save(root / file, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.nbytes for t in tensors.values())
    (root / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
    )
    return root
