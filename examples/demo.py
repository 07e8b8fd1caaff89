"""The main job, end to end: convert a trained model, look at it, load it from the mapping, measure it, let it write.

    python examples/demo.py [--out demo] [--characters 60000]

The files stay in `demo/`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import qformat
from qformat.evaluate import kl_divergence, perplexity
from qformat.torch import load_model, load_tokenizer

HERE = Path(__file__).parent
SAMPLE = HERE / "sample-model"
TEXT = HERE / "data" / "tinystories-test.txt"
PROMPT = "Once upon a time, there was a little"

# What is made: the method, its bits and its other options.
RUNS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("int8", 8, {}),
    ("eetq", 8, {}),
    ("rtn", 8, {}),
    ("ls", 8, {}),
    ("nf4", 4, {}),
    ("nf4", 4, {"double_quant": True}),
    ("fp4", 4, {}),
    ("rtn", 4, {}),
    ("tail", 4, {}),
    ("sinq", 4, {}),
    ("hqq", 4, {}),
    ("ls", 4, {}),
    ("rtn", 3, {}),
    ("tail", 3, {}),
    ("sinq", 3, {}),
    ("hqq", 3, {}),
    ("ls", 3, {}),
    ("rtn", 2, {}),
    ("tail", 2, {}),
    ("sinq", 2, {}),
    ("hqq", 2, {}),
    ("ls", 2, {}),
)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    method: str
    bits_per_weight: float  # of the quantized linears; embedding and norms stay bfloat16
    size: int
    error: float | None
    perplexity: float
    divergence: float
    story: str


def make(out: Path, method: str, bits: int, options: dict[str, Any]) -> Path:
    """The converted file; a second run finds it made."""
    path = out / f"{'-'.join([method, str(bits), *options])}.qf"
    fixed = method in ("int8", "eetq", "nf4", "fp4")
    qformat.convert(SAMPLE, path, method=method, bits=None if fixed else bits, overwrite=True, restart=True, **options)
    return path


def measure(path: Path, label: str, text: str, reference: Any) -> Row:
    """Load the file from its mapping and see what the model has become."""
    model, tokenizer = load_model(path), load_tokenizer(path)
    with qformat.open(path) as file:
        coded = [tensor for tensor in file.values() if tensor.coding != "dense"]
        weights = sum(tensor.matrix_shape[0] * tensor.matrix_shape[1] for tensor in coded)
        bits = 8 * sum(tensor.nbytes for tensor in coded) / weights
        errors = [tensor.error for tensor in coded if tensor.error is not None]
    start = tokenizer.bos_token_id
    return Row(
        method=label,
        bits_per_weight=bits,
        size=path.stat().st_size,
        error=sum(errors) / len(errors) if errors else None,
        perplexity=perplexity(model, tokenizer, text, start_token=start).perplexity,
        divergence=kl_divergence(reference, model, tokenizer, text[: len(text) // 6]),
        story=tell(model, tokenizer),
    )


@torch.inference_mode()
def tell(model: Any, tokenizer: Any, tokens: int = 28) -> str:
    """How the likeliest story goes on, as one line."""
    ids = tokenizer(PROMPT, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=tokens, do_sample=False)
    return " ".join(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).split())


def table(rows: list[Row], width: int) -> str:
    """The rows under a head, the story cut to what is left of the line."""
    lines = [f"{'method':<24}{'bits/w':>7}{'file':>10}{'error':>9}{'perplexity':>12}{'KL':>9}  {PROMPT} …"]
    for row in rows:
        error = "" if row.error is None else f"{row.error:.4f}"
        lines.append(
            f"{row.method:<24}{row.bits_per_weight:>7.3f}{row.size / 1e6:>7.2f} MB{error:>9}"
            f"{row.perplexity:>12.3f}{row.divergence:>9.5f}  {row.story}"
        )
    return "\n".join(line[:width].rstrip() for line in lines)


def main() -> None:
    """Everything in turn."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--characters", type=int, default=60_000, help="of the test text, for the perplexity")
    parser.add_argument("--only", help="a method, to try just that one")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    begun = time.monotonic()
    text = TEXT.read_text(encoding="utf-8")[: options.characters]

    print(f"Converting {SAMPLE} …", flush=True)
    dense = options.out / "dense.qf"
    qformat.convert(SAMPLE, dense, recipe={"rules": [{"match": "*", "skip": True}]}, overwrite=True, restart=True)
    reference = load_model(dense, dtype="float32")
    tokenizer = load_tokenizer(dense)
    base = perplexity(load_model(dense), tokenizer, text, start_token=tokenizer.bos_token_id).perplexity
    rows = [
        Row("bfloat16, as it came", 16.0, dense.stat().st_size, None, base, 0.0, tell(load_model(dense), tokenizer))
    ]
    for method, bits, more in RUNS:
        if options.only in (None, method):
            label = f"{method} {bits}-bit{' double' if more else ''}"
            rows.append(measure(make(options.out, method, bits, more), label, text, reference))
            print(f"  {label}: {rows[-1].perplexity:.3f}", flush=True)

    shown = options.out / "ls-4.qf"
    if shown.exists():
        print(f"\n$ qformat inspect {shown}", flush=True)
        subprocess.run([sys.executable, "-m", "qformat.cli.main", "inspect", str(shown)], check=True)
        print(f"\n$ qformat verify {shown}", flush=True)
        subprocess.run([sys.executable, "-m", "qformat.cli.main", "verify", str(shown)], check=True)
    print(f"\nGroups of 64 inputs; perplexity a token over {len(text):,} characters; exact mode.\n")
    print(table(rows, shutil.get_terminal_size((160, 24)).columns))
    print(f"\n{time.monotonic() - begun:.0f} s; the files are in {options.out}/")


if __name__ == "__main__":
    main()
