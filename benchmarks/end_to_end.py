"""Tokens per second of a synthetic Llama of about a billion parameters: ours at 4 bits beside torch bfloat16.

    python benchmarks/end_to_end.py [--rounds 3] [--new 8] [--prompt 64] [--layers 16]

Random bfloat16 weights are written as safetensors, converted (rtn, 4 bits, group 64), and both models are run in
turns; medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import torch
from machine import description
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import qformat
from qformat.evaluate import speed
from qformat.torch import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "end-to-end.json")
    given = parser.parse_args()
    torch.set_default_dtype(torch.bfloat16)
    config = LlamaConfig(
        hidden_size=2048,
        num_hidden_layers=given.layers,
        intermediate_size=8192,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=32000,
    )
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        path = Path(folder) / "model.qf"
        qformat.convert(folder, path, method="rtn", bits=4, group_size=64)
        models = {
            "qformat rtn 4 bits g64": load_model(path),
            "torch bfloat16": AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval(),
        }
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
        for _ in range(given.rounds):
            for name, model in models.items():
                one = speed(model, prompt_tokens=given.prompt, new_tokens=given.new, rounds=1)
                samples[name].append((one.prefill, one.decode))
    table = {
        name: {"prefill": median(p for p, _ in found), "decode": median(d for _, d in found)}
        for name, found in samples.items()
    }
    for name, row in table.items():
        print(f"{name:<24} prefill {row['prefill']:7.1f}  decode {row['decode']:6.2f} tokens/s")
    shape = {"layers": given.layers, "prompt": given.prompt, "new": given.new}
    result = {"machine": description(), **shape, "table": table, "samples": samples}
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
