"""Train the sample model that ships in `examples/sample-model`.

A Llama of 4.5 million weights (grouped-query attention, tied embeddings) that
writes little stories, small enough to live in the repository and real enough
that quantizing it badly shows: its perplexity moves and its stories fall apart.

    python examples/train_sample.py TEXT_DIR OUT --steps 3700
    python examples/describe_sample.py OUT TEXT_DIR

`TEXT_DIR` holds TinyStories as `tinystories-*.txt`, stories separated by
`<|endoftext|>`; all of it is trained on but `tinystories-test.txt`.

Everything random is seeded. With `--steps` the learning rate follows the step
count, and the same machine and thread count make the same weights again. With
`--minutes` it follows the clock, so that a busy machine still ends on time with
a fully decayed rate, but such weights cannot be reproduced bit by bit.
`training.json` beside the weights records the recipe and how far it got.

A million and a half tokens are read ten times over, so the recipe fights
over-fitting: Muon, which learns more from a token than AdamW (Jordan 2024,
https://kellerjordan.github.io/posts/muon; scaled as in Liu et al. 2025,
arXiv:2502.16982), dropout on the residual stream, strong decoupled weight decay
(Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2), and the checkpoint
with the lowest loss on held-out training stories is kept. The test text chooses
nothing: training reads it only to leave out the few stories that are in both.
"""

import argparse
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|endoftext|>"  # closes a story and, as the next one's first token, opens it


@dataclass(frozen=True)
class Recipe:
    """What a run does, apart from how long it runs. Lengths are in tokens."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 768
    layers: int = 5
    heads: int = 8
    kv_heads: int = 4
    context: int = 512
    batch: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.5
    dropout: float = 0.1
    warmup: float = 0.02  # as a fraction of the run
    holdout: int = 100  # training stories kept for choosing the checkpoint
    evaluations: int = 50
    seed: int = 0


def read_stories(path):
    """The stories of one file, in order, without the separators."""
    stories = [story.strip() for story in path.read_text(encoding="utf-8").split(END)]
    stories = [story for story in stories if story]
    if len(stories) < 2:
        raise ValueError(f"{path}: expected stories separated by {END}, found {len(stories)}")
    return stories


def read_training_stories(text_dir):
    """The distinct stories of every `tinystories-*.txt` but the test text, and without those that are in it too."""
    test_path = text_dir / "tinystories-test.txt"
    paths = sorted(set(text_dir.glob("tinystories-*.txt")) - {test_path})
    if not paths:
        raise FileNotFoundError(f"{text_dir}: expected tinystories-*.txt beside tinystories-test.txt, found none")
    distinct = dict.fromkeys(story for path in paths for story in read_stories(path))
    test = set(read_stories(test_path))
    return [story for story in distinct if story not in test]


def train_tokenizer(stories, recipe):
    """A byte-level BPE tokenizer that opens every text with `END` (id 0).

    `END` swallows the white space around it, so a raw file of stories encodes
    to the very stream that the model was trained on.
    """
    end = AddedToken(END, special=True, lstrip=True, rstrip=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(stories, trainer)
    opening = [(END, tokenizer.token_to_id(END))]
    tokenizer.post_processor = processors.TemplateProcessing(f"{END} $A", f"{END} $A {END} $B", opening)
    options = {"bos_token": end, "eos_token": end, "pad_token": end, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=recipe.context, **options)


def encode(tokenizer, stories):
    """One int64 array a story: `END`, then the story's tokens."""
    return [np.array(tokens) for tokens in tokenizer(stories, verbose=False)["input_ids"]]


def windows(stories, context):
    """The stream of all stories cut into rows `(n, context + 1)`, neighbours sharing one token, the rest dropped."""
    stream = np.concatenate(stories)
    rows = (len(stream) - 1) // context
    index = np.arange(rows)[:, None] * context + np.arange(context + 1)
    return torch.from_numpy(stream[index])


def batches(stories, recipe):
    """Batches `(batch, context + 1)` without end; every epoch shuffles the stories anew."""
    generator = np.random.default_rng(recipe.seed)
    while True:
        epoch = windows([stories[i] for i in generator.permutation(len(stories))], recipe.context)
        yield from epoch[torch.from_numpy(generator.permutation(len(epoch)))].split(recipe.batch)


def build_model(tokenizer, recipe):
    """A fresh Llama, with dropout on what the embedding and every block add to the residual stream."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,  # no padding index: it would freeze the embedding of END
    )
    model = LlamaForCausalLM(config)
    for name, module in model.named_modules():
        if name.endswith(("embed_tokens", "o_proj", "down_proj")):
            module.register_forward_hook(lambda m, _, y: F.dropout(y, recipe.dropout, m.training))
    return model


def loss_sum(model, rows):
    """Summed cross entropy of rows `(n, context + 1)`, in nats, as a fp32 scalar."""
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten(), reduction="sum")


@torch.no_grad()
def mean_loss(model, rows, batch=8):
    """Mean cross entropy of rows `(n, context + 1)`, in nats per token."""
    model.eval()
    return sum(loss_sum(model, part).item() for part in rows.split(batch)) / rows[:, 1:].numel()


def build_optimizers(model, recipe):
    """Muon for the blocks' matrices, AdamW for the embedding and, without decay, for the norms' vectors.

    Muon's updates are scaled to AdamW's root mean square, so one rate and one decay serve both.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and "embed_tokens" not in name]
    embedding = [p for name, p in model.named_parameters() if p.ndim > 1 and "embed_tokens" in name]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    decay = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    groups = [{"params": embedding, **decay}, {"params": vectors, **decay, "weight_decay": 0.0}]
    return (
        torch.optim.Muon(matrices, **decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True),
    )


def rate(progress, recipe):
    """The learning rate at `progress` in [0, 1]: a linear warm-up, then a cosine to zero."""
    if progress < recipe.warmup:
        return recipe.learning_rate * (progress + 1e-3) / (recipe.warmup + 1e-3)
    decayed = (progress - recipe.warmup) / (1 - recipe.warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * decayed))


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def save(model, tokenizer, facts, out):
    """Replace `out` by a complete model folder with bf16 weights."""
    partial = out.with_name(out.name + ".partial")
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(weights)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    copy.generation_config = GenerationConfig(**ids, pad_token_id=tokenizer.pad_token_id)
    copy.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    write_json(partial / "special_tokens_map.json", {f"{role}_token": END for role in ("bos", "eos", "pad")})
    write_json(partial / "training.json", facts)
    settings = json.loads((partial / "tokenizer_config.json").read_text())
    # transformers 5 writes a class name here that transformers 4 does not know.
    write_json(partial / "tokenizer_config.json", {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def train(text_dir, out, steps, minutes, recipe):
    """Train until `steps` or `minutes` are used up; `out` always holds the best checkpoint so far."""
    torch.manual_seed(recipe.seed)
    stories = read_training_stories(text_dir)
    tokenizer = train_tokenizer(stories[: -recipe.holdout], recipe)
    tokens = encode(tokenizer, stories)
    training, held_out = tokens[: -recipe.holdout], windows(tokens[-recipe.holdout :], recipe.context)
    size = sum(map(len, training))
    model = build_model(tokenizer, recipe)
    optimizers = build_optimizers(model, recipe)
    print(f"{len(training)} stories, {size} tokens, {model.num_parameters()} weights", flush=True)

    best, running, evaluated, start = math.inf, math.log(len(tokenizer)), 0, time.monotonic()
    for step, rows in enumerate(batches(training, recipe)):
        progress = step / steps if steps else (time.monotonic() - start) / (60 * minutes)
        if progress * recipe.evaluations >= evaluated + 1 or progress >= 1:
            evaluated = int(progress * recipe.evaluations)
            loss, epochs = mean_loss(model, held_out), round(step * recipe.batch * recipe.context / size, 1)
            print(f"step {step}, epoch {epochs}, loss {running:.3f}, held out {loss:.3f}", flush=True)
            if loss < best:
                best, limit = loss, {"steps": steps} if steps else {"minutes": minutes}
                facts = {**limit, "step": step, "epochs": epochs, "tokens": size, "held_out_loss": loss}
                save(model, tokenizer, {**facts, **asdict(recipe)}, out)
        if progress >= 1:
            return
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate(progress, recipe)
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_sum(model, rows) / rows[:, 1:].numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        running += 0.02 * (loss.item() - running)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text_dir", type=Path, help="folder of the TinyStories texts")
    parser.add_argument("out", type=Path, help="model folder to write; it always holds the best checkpoint so far")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int, help="reproducible: the learning rate follows the step count")
    length.add_argument("--minutes", type=float, help="ends on time: the learning rate follows the clock")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.text_dir, args.out, args.steps, args.minutes, Recipe())


if __name__ == "__main__":
    main()
