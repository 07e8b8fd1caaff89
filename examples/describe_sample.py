"""Measure the sample model on the test text and write its `README.md`.

    python examples/describe_sample.py examples/sample-model TEXT_DIR

`TEXT_DIR` holds TinyStories as `tinystories-test.txt`. The figures are those of
the weights as stored (bf16), computed in fp32. Same weights, same text, same
thread count: same card.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from train_sample import encode, mean_loss, read_stories, windows
from transformers import AutoModelForCausalLM, AutoTokenizer

CARD = """\
---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
datasets: [roneneldan/TinyStories]
---

# qformat's sample model

A Llama of {weights:,} weights that writes little stories for the examples, tests and
benchmarks of this repository. It knows nothing else.

| | |
|---|---|
| shape | {layers} layers, {hidden_size} wide, MLP {intermediate_size}, {heads} heads on {kv_heads} key/value heads |
| vocabulary | {vocab_size} byte-level BPE tokens; `<|endoftext|>` opens and closes a story |
| context | {context} tokens; embeddings and head are tied; weights are bf16 |
| perplexity | **{perplexity:.3f}** per token, **{bits_per_byte:.4f}** bits per byte, on the TinyStories test text |
| training | {step:,} steps of {batch} × {context} tokens, {epochs} epochs of {tokens:,} tokens |
| run | {run}; this is its best checkpoint |

The perplexity is that of the bf16 weights, computed in fp32, over {test_stories:,} stories
({test_tokens:,} tokens, {test_bytes:,} bytes) in consecutive windows of {context} tokens. None of the
stories was trained on or used to choose the checkpoint.

Made by `examples/train_sample.py` and described by `examples/describe_sample.py`;
`training.json` has the whole recipe. {reproduction}

A story (prompt "{prompt}", temperature 0.7, top-k 40, seed 0):

{story}

## Licence

The weights and the tokenizer are under the MIT licence. They were trained on 5.8 MB of
[TinyStories](https://huggingface.co/datasets/roneneldan/TinyStories) (Eldan and Li 2023,
arXiv:2305.07759), whose text is under
[CDLA-Sharing-1.0](https://cdla.dev/sharing-1-0/); that licence puts no conditions on
results computed from the data, and none of the text is distributed here.
"""


def tell(model, tokenizer, prompt, seed=0):
    """A sampled story, up to its end or the end of the context."""
    torch.manual_seed(seed)
    tokens = tokenizer(prompt, return_tensors="pt")
    limit = model.config.max_position_embeddings
    story = model.generate(**tokens, do_sample=True, temperature=0.7, top_k=40, max_length=limit)
    return tokenizer.decode(story[0], skip_special_tokens=True)


def describe(folder, text_dir, prompt="Once upon a time"):
    """Measure the model in `folder` on the test text and write its README.md."""
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    stories = read_stories(text_dir / "tinystories-test.txt")
    tokens, size = encode(tokenizer, stories), sum(len(story.encode()) for story in stories)
    loss, count = mean_loss(model, windows(tokens, facts["context"])), sum(map(len, tokens))
    by_clock = "the clock, so the weights cannot be\nreproduced bit by bit."
    text = CARD.format(
        **facts,
        weights=model.num_parameters(),
        perplexity=math.exp(loss),
        bits_per_byte=loss * count / math.log(2) / size,
        test_stories=len(stories),
        test_tokens=count,
        test_bytes=size,
        run=f"{facts['minutes']:g} minutes on two CPU cores" if "minutes" in facts else f"{facts['steps']:,} steps",
        reproduction=f"The learning rate followed {by_clock if 'minutes' in facts else 'the step count.'}",
        prompt=prompt,
        story="\n".join(f"> {line}".rstrip() for line in tell(model, tokenizer, prompt).splitlines()),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    print(f"{folder}: perplexity {math.exp(loss):.3f} per token, {loss * count / math.log(2) / size:.4f} bits per byte")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="model folder, as train_sample.py wrote it")
    parser.add_argument("text_dir", type=Path, help="folder of the TinyStories texts")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    describe(args.folder, args.text_dir)


if __name__ == "__main__":
    main()
