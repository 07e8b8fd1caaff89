"""Products of one layer on a GPU, as fractions of what its memory can deliver.

    python benchmarks/gpu.py [--batch 1 2 4 8] [--rounds 15] [--json benchmarks/results/gpu.json]

Shapes are those of Llama-3-8B (out × in). Each measurement takes enough layers with weights of their own that they do
not fit in the second-level cache, in a CUDA graph, so that only the kernels count; medians of rounds in which all take
turns. `share` is the bytes of the weights, as they are stored, over the time, as a fraction of a plain read of as many
bytes in the same round. Peers: torch's dense bfloat16, bitsandbytes' NF4, gemlite's 4-bit; those that are not installed
are named as such. The tests of the kernels run first, on the GPU.

Without a GPU nothing is measured, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qformat import codings
from qformat.codings.grammar import Additive, Affine, Block, Coding, Dense, Lookup

SHAPES = {
    "q, o": (4096, 4096),
    "k, v": (1024, 4096),
    "gate, up": (14336, 4096),
    "down": (4096, 14336),
}

HALF = Dense(dtype="float16")
GROUP = Block(rows=1, columns=64)
CODINGS: dict[str, Coding] = {
    "affine 8": Affine(bits=8, group=GROUP, scales=HALF, zeros=Affine(bits=8), layout="panel"),
    "affine 4": Affine(bits=4, group=GROUP, scales=HALF, zeros=Affine(bits=4), layout="panel"),
    "affine 4, float zeros": Affine(bits=4, group=GROUP, scales=HALF, zeros=HALF, layout="panel"),
    "affine 3": Affine(bits=3, group=GROUP, scales=HALF, zeros=HALF, layout="panel"),
    "affine 2": Affine(bits=2, group=GROUP, scales=HALF, zeros=Affine(bits=2), layout="panel"),
    "nf4": Lookup(bits=4, table="nf4", group=GROUP, scales=HALF, layout="panel"),
    "aqlm 2×8 g8": Additive(books=2, bits=8, in_group=8, scales=HALF, layout="panel"),
    "aqlm 1×16 g8": Additive(books=1, bits=16, in_group=8, scales=HALF, layout="panel"),
}

# Bytes of distinct weights that one measurement reads: several times the second-level cache of any GPU.
ROTATION = 1 << 29

Product = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Case:
    """Layers of one kind and shape, and how long a pass over them took, by round."""

    name: str
    layer: str
    shape: tuple[int, int]
    batch: int
    nbytes: int
    layers: int
    graph: torch.cuda.CUDAGraph
    seconds: list[float]
    held: list[Any]


def ours(coding: Coding, shape: tuple[int, int], seed: int) -> tuple[Product, int]:
    """A product with random codes, and the bytes that it reads."""
    from qformat.kernels import triton

    rng = np.random.default_rng(seed)
    arrays = {}
    for name, role in codings.roles(coding, shape).items():
        if role.bits is not None:
            arrays[name] = rng.integers(0, 2**role.bits, role.shape).astype(role.dtype)
        else:
            arrays[name] = (rng.standard_normal(role.shape, np.float32) * 0.02).astype(role.dtype)
    extent = codings.pack(coding, shape, arrays)
    place = codings.layout(coding, shape).places["panels"]
    body = torch.from_numpy(extent[place.offset : place.offset + place.nbytes]).cuda()
    operand = triton.prepare(coding, shape, codings.parts(coding, shape, extent), body)
    assert operand is not None
    return operand.matvec, len(extent)


def copied(product: Product) -> Product:
    """A product with the same sizes over weights in another place."""
    from dataclasses import replace

    operand = product.__self__  # type: ignore[attr-defined]
    copy: Product = replace(operand, body=operand.body.clone()).matvec
    return copy


def dense(shape: tuple[int, int]) -> tuple[Product, int]:
    """torch's bfloat16 layer."""
    weight = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    return partial(torch.nn.functional.linear, weight=weight), weight.nbytes


def bitsandbytes_nf4(shape: tuple[int, int]) -> tuple[Product, int]:
    """bitsandbytes' Linear4bit: NF4 in blocks of 64, float32 absmax."""
    import bitsandbytes

    layer = bitsandbytes.nn.Linear4bit(
        shape[1], shape[0], bias=False, compute_dtype=torch.bfloat16, compress_statistics=False, quant_type="nf4"
    ).cuda()
    return layer, shape[0] * shape[1] // 2 + shape[0] * shape[1] // 64 * 4


def gemlite_4bit(shape: tuple[int, int]) -> tuple[Product, int]:
    """gemlite's 4-bit layer in groups of 64."""
    from gemlite import DType, GemLiteLinear

    rows, inputs = shape
    layer = GemLiteLinear(4, group_size=64, in_features=inputs, out_features=rows, input_dtype=DType.FP16,
                          output_dtype=DType.FP16)  # fmt: skip
    codes = torch.randint(0, 16, shape, dtype=torch.uint8, device="cuda")
    scales = torch.rand(rows, inputs // 64, device="cuda", dtype=torch.float16) * 0.02
    layer.pack(codes, scales, torch.full_like(scales, 8), None)
    return layer, rows * inputs // 2 + 2 * scales.nbytes


PEERS: dict[str, tuple[str | None, Callable[[tuple[int, int]], tuple[Product, int]]]] = {
    "torch bfloat16": (None, dense),
    "bitsandbytes nf4": ("bitsandbytes", bitsandbytes_nf4),
    "gemlite 4 bits": ("gemlite", gemlite_4bit),
}


def captured(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """`work` as a graph, run before so that everything is compiled and tuned."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def timed(graph: torch.cuda.CUDAGraph) -> float:
    """Seconds of one replay."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def case(name: str, layer: str, batch: int, make: Callable[[int], tuple[Product, int]]) -> Case:
    """Enough layers for the rotation; `make` is called once for ours (the rest are copies), each time for peers."""
    shape = SHAPES[layer]
    first, nbytes = make(0)
    count = max(ROTATION // nbytes, 2)
    again = name in CODINGS
    products = [first, *((copied(first) if again else make(number)[0]) for number in range(1, count))]
    dtype = torch.float16 if name == "gemlite 4 bits" else torch.bfloat16
    x = torch.randn(batch, shape[1], device="cuda", dtype=dtype)

    def work() -> None:
        for product in products:
            product(x)

    with torch.no_grad():
        graph = captured(work)
    return Case(name, layer, shape, batch, nbytes, count, graph, [], [products, x])


def plain_read() -> tuple[torch.cuda.CUDAGraph, list[Any], int]:
    """A sum over as many bytes as a measurement reads: what this GPU's memory delivers to a kernel that only reads."""
    values = torch.ones(ROTATION // 4, device="cuda")
    out = torch.empty((), device="cuda")

    def work() -> None:
        torch.sum(values, dim=0, out=out)

    return captured(work), [values, out], values.nbytes


def measure(layer: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Every coding and installed peer on one shape, interleaved."""
    cases = [case(name, layer, batch, partial(_ours, name, layer)) for name in CODINGS]
    for name, (package, make) in PEERS.items():
        if package is None or find_spec(package) is not None:
            cases.append(case(name, layer, batch, lambda _, make=make: make(SHAPES[layer])))
    graph, _kept, read_bytes = plain_read()
    reads = []
    for _ in range(rounds):
        reads.append(timed(graph))
        for each in cases:
            each.seconds.append(timed(each.graph))
    limit = read_bytes / statistics.median(reads)
    base = {each.name: statistics.median(each.seconds) / each.layers for each in cases}
    return [
        {
            "coding": each.name,
            "layer": layer,
            "shape": list(each.shape),
            "batch": batch,
            "bits_per_weight": 8 * each.nbytes / (each.shape[0] * each.shape[1]),
            "microseconds": 1e6 * base[each.name],
            "gigabytes_per_second": each.nbytes / base[each.name] / 1e9,
            "plain_read": limit / 1e9,
            "share": each.nbytes / base[each.name] / limit,
            "against_bfloat16": base["torch bfloat16"] / base[each.name],
        }
        for each in cases
    ]


def _ours(name: str, layer: str, seed: int) -> tuple[Product, int]:
    return ours(CODINGS[name], SHAPES[layer], seed)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    properties = torch.cuda.get_device_properties(0)
    versions = {}
    for package in ("torch", "triton", "bitsandbytes", "gemlite"):
        versions[package] = importlib.metadata.version(package) if find_spec(package) else "not installed"
    return {
        "gpu": properties.name,
        "memory_bytes": properties.total_memory,
        "cache_bytes": getattr(properties, "L2_cache_size", None),
        "versions": versions,
    }


def tests_pass() -> bool:
    """No speed without a green gate: the tests of the kernels, on this GPU."""
    root = Path(__file__).parents[1]
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/kernels/triton"], cwd=root).returncode == 0


def main() -> int:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8], help="rows of x, up to 8")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="where results go")
    parser.add_argument("--no-tests", action="store_true", help="while working on this file")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no GPU here that torch can use, so nothing was measured", file=sys.stderr)
        return 2
    if not arguments.no_tests and not tests_pass():
        print("the tests of the kernels fail, so nothing was measured", file=sys.stderr)
        return 1
    for package in (package for package, _ in PEERS.values() if package and find_spec(package) is None):
        print(f"{package} is not installed and not measured")
    found = machine()
    print(f"{found['gpu']}, {', '.join(f'{name} {version}' for name, version in found['versions'].items())}")
    print(f"{'coding':22} {'layer':9} batch   bits      µs    GB/s  share  × bf16")
    results = []
    for batch in arguments.batch:
        for layer in SHAPES:
            for row in measure(layer, batch, arguments.rounds):
                results.append(row)
                print(
                    f"{row['coding']:22} {layer:9} {batch:5} {row['bits_per_weight']:6.2f} {row['microseconds']:7.1f} "
                    f"{row['gigabytes_per_second']:7.0f} {row['share']:6.2f} {row['against_bfloat16']:7.2f}"
                )
            torch.cuda.empty_cache()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": found, "results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
