"""A Llama with random weights, in the forms that the end-to-end subjects read: safetensors, .qf and GGUF."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlamaConfig

import qformat

# Bits of the tied embedding and head, as llama.cpp's mixtures have it (Q6_K).
HEAD = {"match": "model.embed_tokens.weight", "method": "ls", "bits": 6, "group_size": 64}


def config(layers: int, vocabulary: int) -> LlamaConfig:
    """The shapes of Llama-3.2-1B: 1.24 billion parameters with 16 layers and 128,256 words."""
    return LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        vocab_size=vocabulary,
        max_position_embeddings=4096,
        rope_theta=500000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )


def checkpoint(folder: Path, layers: int, vocabulary: int) -> Path:
    """Random bfloat16 weights as a transformers checkpoint."""
    of = config(layers, vocabulary)
    of.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    width, inner, keys = of.hidden_size, of.intermediate_size, of.num_key_value_heads * of.head_dim
    shapes = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)

    ones = torch.ones(width, dtype=torch.bfloat16)
    tensors = {"model.embed_tokens.weight": random(vocabulary, width), "model.norm.weight": ones.clone()}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        tensors |= {f"{prefix}.{name}.weight": random(*shape) for name, shape in shapes.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = ones.clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def converted(source: Path, target: Path, group_size: int) -> Path:
    """Four bits, six in the embedding, which is the head too."""
    qformat.convert(source, target, method="ls", bits=4, group_size=group_size, recipe={"rules": [HEAD]})
    return target


# Parts of a layer and what llama.cpp calls them.
_GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _gguf_tensors(source: Path, of: LlamaConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """The checkpoint under llama.cpp's names; rows of queries and keys in the order of its rotary embedding."""
    with safe_open(source / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            tensor = file.get_tensor(name)
            part = name.removesuffix(".weight").split(".", 3)
            if part[1] != "layers":
                yield {"embed_tokens": "token_embd", "norm": "output_norm"}[part[1]] + ".weight", tensor
                continue
            if part[3] in ("self_attn.q_proj", "self_attn.k_proj"):
                halves = tensor.reshape(-1, 2, of.head_dim // 2, of.hidden_size)
                tensor = halves.transpose(1, 2).reshape(tensor.shape)
            yield f"blk.{part[2]}.{_GGUF_NAMES[part[3]]}.weight", tensor


def gguf(source: Path, target: Path) -> Path:
    """The checkpoint as a bfloat16 GGUF without vocabulary."""
    from gguf import GGMLQuantizationType, GGUFWriter

    of = LlamaConfig.from_pretrained(source)
    writer = GGUFWriter(target, "llama")
    writer.add_context_length(of.max_position_embeddings)
    writer.add_embedding_length(of.hidden_size)
    writer.add_block_count(of.num_hidden_layers)
    writer.add_feed_forward_length(of.intermediate_size)
    writer.add_head_count(of.num_attention_heads)
    writer.add_head_count_kv(of.num_key_value_heads)
    writer.add_layer_norm_rms_eps(of.rms_norm_eps)
    writer.add_rope_freq_base(of.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(of.head_dim)
    writer.add_vocab_size(of.vocab_size)
    writer.add_tokenizer_model("none")
    for name, tensor in _gguf_tensors(source, of):
        if tensor.ndim == 1:
            writer.add_tensor(name, tensor.float().numpy())
        else:
            data = tensor.contiguous().view(torch.int16).numpy().view(np.uint8)
            writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def requantized(source: Path, target: Path, kind: str) -> Path:
    """A GGUF in one of llama.cpp's mixtures, such as "Q4_0" or "Q4_K_M", made by llama.cpp itself."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    status = llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(parameters))
    if status:
        raise RuntimeError(f"llama.cpp could not make {target.name}: {status}")
    return target
