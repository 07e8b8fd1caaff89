"""Products with one vector at the speed of memory: ours from a file and on huge pages, beside the peers.

    python benchmarks/gemv.py [--shape 4096x4096] [--rounds 5] [--mib 1024] [--cases affine4-g128,…]

Every case has its own `--mib` of distinct tensors in rotation. A round is a probe of where the host has the cores, a
plain read of the case's pages, and one pass over its tensors through `Tensor.matvec` (from the file) or
`Product.matvec` (huge pages), so a share compares neighbours in time. Medians of the rounds, by host state; rounds in
which other processes had more than 0.3 of a core (ticks are coarse) are kept in the JSON file but not in the table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from machine import description, huge, others, plain_read, state

import qformat
from qformat import container, kernels, linear
from qformat.codings.grammar import Additive, Affine, Block, Coding, Dense, Lookup
from qformat.linear import Scheme

F16 = Dense(dtype="float16")
RESULTS = Path(__file__).with_name("results")


def affine(bits: int, group: int) -> Affine:
    return Affine(bits=bits, group=Block(rows=1, columns=group), scales=F16, zeros=F16, layout="panel")


def additive(books: int, bits: int, width: int) -> Additive:
    return Additive(books=books, bits=bits, in_group=width, scales=F16, layout="panel")


NF4 = Lookup(bits=4, table="nf4", group=Block(rows=1, columns=64), scales=F16, layout="panel")

# name: coding, mode, dtype of x
CASES: dict[str, tuple[Coding, str, str]] = {
    **{f"affine{b}-g{g}": (affine(b, g), "int8", "float32") for g in (128, 64) for b in (8, 4, 3, 2)},
    "affine4-g128 exact": (affine(4, 128), "exact", "bfloat16"),
    "nf4-g64": (NF4, "int8", "float32"),
    "additive 2x8 g8": (additive(2, 8, 8), "int8", "float32"),
    "additive 4x4 g8": (additive(4, 4, 8), "int8", "float32"),
    "additive 8x4 g16": (additive(8, 4, 16), "int8", "float32"),
    "additive 2x8 g8 exact": (additive(2, 8, 8), "exact", "float32"),
    "additive 1x16 g8": (additive(1, 16, 8), "exact", "float32"),
}


def one(coding: Coding, shape: tuple[int, int]) -> tuple[Scheme, np.ndarray]:
    """A scheme and the bytes of one tensor of random codes."""
    rng = np.random.default_rng(0)
    scheme = Scheme(coding=coding)
    arrays: dict[str, np.ndarray] = {}
    for name, role in linear.roles(scheme, shape, ()).items():
        if role.bits is not None:
            arrays[name] = rng.integers(0, 2**role.bits, role.shape).astype(role.dtype)
        else:
            arrays[name] = (0.02 * rng.random(role.shape) + 0.01).astype(role.dtype)
    return scheme, linear.pack(scheme, shape, arrays)


def write(path: Path, scheme: Scheme, shape: tuple[int, int], extent: np.ndarray, count: int) -> None:
    """A file of `count` tensors of the same content on pages of their own."""
    with container.create(path) as writer:
        for i in range(count):
            how: Any = linear.dump(scheme)
            writer.tensor(
                f"t{i:04}", scheme=how, dtype="bfloat16", shape=shape, length=extent.nbytes, data=[memoryview(extent)]
            )
        writer.finish({})


def peers(shape: tuple[int, int], size: int) -> Iterator[tuple[str, float, list[Callable[[], object]]]]:
    """(name, bits per weight, calls over distinct tensors) of what is installed here."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(2)
    rows, columns = shape
    x = torch.randn(1, columns, dtype=torch.bfloat16)
    count = max(size // (2 * rows * columns), 2)
    weights = [torch.full(shape, 0.01, dtype=torch.bfloat16) for _ in range(count)]
    yield "torch bf16", 16.0, [lambda w=w: torch.nn.functional.linear(x, w) for w in weights]
    del weights
    group, count = 128, max(size // (rows * columns // 2), 2)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.randint(0, 16, shape, dtype=torch.int32), 1)
    numbers = torch.full((columns // group, rows, 2), 0.01, dtype=torch.bfloat16)
    ints = [packed.clone() for _ in range(count)]
    yield (
        "torch int4pack",
        4.25,
        [lambda w=w: torch.ops.aten._weight_int4pack_mm_for_cpu(x, w, group, numbers) for w in ints],
    )
    del ints
    try:
        import bitsandbytes.functional as bnb
    except ImportError:
        return
    coded, how = bnb.quantize_4bit(torch.randn(shape, dtype=torch.bfloat16), blocksize=64, quant_type="nf4")
    copies = [coded.clone() for _ in range(max(size // coded.nbytes // 8, 2))]
    yield "bitsandbytes nf4", 4.5, [lambda w=w: bnb.dequantize_4bit(w, how) @ x[0] for w in copies]


def passes(calls: list[Callable[[], object]]) -> float:
    """Seconds per call of one pass."""
    start = time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - start) / len(calls)


def measure(name: str, shape: tuple[int, int], size: int, rounds: int) -> list[dict[str, Any]]:
    """Samples of one case from a file mapping and on huge pages."""
    coding, mode, dtype = CASES[name]
    scheme, extent = one(coding, shape)
    count = max(-(-size // extent.nbytes), 2)
    x = (
        np.random.default_rng(1)
        .standard_normal(shape[1])
        .astype(np.float32 if dtype == "float32" else ml_dtypes.bfloat16)
    )
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.qf"
        write(path, scheme, shape, extent, count)
        with qformat.open(path) as model:
            tensors = [model[n] for n in model]
            first, last = tensors[0].extent(), tensors[-1].extent()
            length = last.ctypes.data + last.nbytes - first.ctypes.data
            base = np.lib.stride_tricks.as_strided(first, (length,), (1,), writeable=False)
            stride = -(-extent.nbytes // 4096) * 4096
            area = huge(stride * count)
            area.reshape(count, stride)[:, : extent.nbytes] = extent
            products = [
                kernels.Product(scheme, shape, (), tensors[0].checked, area[i * stride : i * stride + extent.nbytes])
                for i in range(count)
            ]
            batch = x.reshape(1, -1)
            sides = {
                "file": (base, [lambda t=t: t.matvec(x, mode) for t in tensors]),
                "huge": (area, [lambda p=p: p.matvec(batch, mode, kernels.active()) for p in products]),
            }
            for pages, calls in sides.values():
                passes(calls), plain_read(pages)
            for _ in range(rounds):
                for where, (pages, calls) in sides.items():
                    before = state()
                    start = others()
                    plain = plain_read(pages)
                    passes(calls[: len(calls) // 2])  # the probes have let the pool's workers fall asleep
                    seconds = passes(calls)
                    plain = statistics.mean([plain, plain_read(pages)])
                    foreign = start.since()
                    after = state()
                    speed = extent.nbytes / seconds
                    samples.append(
                        {
                            "case": name,
                            "shape": list(shape),
                            "pages": where,
                            "state": before if before == after else "moved",
                            "bytes_per_s": speed,
                            "plain": plain,
                            "others": foreign,
                            "share": speed / plain,
                            "weights_per_s": shape[0] * shape[1] / seconds,
                            "bits": 8 * extent.nbytes / shape[0] / shape[1],
                        }
                    )
    return samples


def measure_peers(shape: tuple[int, int], size: int, rounds: int) -> list[dict[str, Any]]:
    samples = []
    for name, bits, calls in peers(shape, size):
        passes(calls[:2])
        for _ in range(rounds):
            before = state()
            passes(calls[: len(calls) // 2])
            seconds = passes(calls)
            speed = shape[0] * shape[1] / seconds
            where = before if before == state() else "moved"
            common = {"case": name, "shape": list(shape), "pages": "heap", "state": where, "bits": bits}
            samples.append({**common, "weights_per_s": speed, "bytes_per_s": speed * bits / 8})
    return samples


def table(samples: list[dict[str, Any]]) -> str:
    """Medians by case, shape, pages and state."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for s in samples:
        if s["state"] != "moved" and s.get("others", 0) <= 0.3:
            groups[s["case"], "x".join(map(str, s["shape"])), s["pages"], s["state"]].append(s)
    lines = [
        "| case | shape | pages | state | n | GB/s | plain | share | Gweights/s |",
        "|---|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for key, found in groups.items():

        def median(field: str, found: list[dict[str, Any]] = found) -> float:
            return statistics.median(s.get(field, float("nan")) for s in found)

        own = f"{median('bytes_per_s') / 1e9:.1f} | {median('plain') / 1e9:.1f} | {median('share'):.2f}"
        lines.append(f"| {' | '.join(key)} | {len(found)} | {own} | {median('weights_per_s') / 1e9:.1f} |")
    return "\n".join(lines).replace("nan", "–")


def plot(samples: list[dict[str, Any]], path: Path) -> None:
    """Roofline per coding: median weights per second over the limit that the plain read gives."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [n for n in CASES if any(s["case"] == n for s in samples)]
    figure, axes = pyplot.subplots(figsize=(9, 0.4 * len(names) + 1.5))
    for y, name in enumerate(names):
        own = [s for s in samples if s["case"] == name and s["pages"] == "file"]
        limit = statistics.median(s["plain"] * 8 / s["bits"] for s in own) / 1e9
        axes.barh(y, limit, color="0.85")
        axes.barh(y, statistics.median(s["weights_per_s"] for s in own) / 1e9, height=0.5)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("Gweights/s from a file mapping; grey: what a plain read of the same pages allows")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="4096x4096")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON to add the samples to")
    given = parser.parse_args()
    rows, columns = (int(side) for side in given.shape.split("x"))
    samples: list[dict[str, Any]] = []
    for name in given.cases.split(","):
        samples += measure(name, (rows, columns), given.mib << 20, given.rounds)
        print("\n".join(table(samples[-2 * given.rounds :]).split("\n")[2:]), flush=True)
    if not given.no_peers:
        samples += measure_peers((rows, columns), given.mib << 20, given.rounds)
    print(table(samples))
    machine = {**description(), "kernel": kernels.active(), "threads": kernels.get_threads()}
    slug = "".join(c if c.isalnum() else "-" for c in machine["cpu"].lower())
    out = given.out or RESULTS / f"{machine['date']}-{slug}-gemv.json"
    if out.exists():
        samples = json.loads(out.read_text())["samples"] + samples
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"machine": machine, "samples": samples}, indent=1) + "\n")
    try:
        plot(samples, out.with_suffix(".png"))
    except ImportError:
        print("no plot: matplotlib is not installed")


if __name__ == "__main__":
    main()
