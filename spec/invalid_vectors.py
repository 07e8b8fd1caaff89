"""The invalid conformance vectors: files with exactly one fault each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vector_maker import Maker, affine, block, dense, lookup

from qformat import linear, schemes


def faults() -> Iterator[tuple[str, Callable[[Maker], None]]]:
    """Files that are sound as bytes, with one tensor whose numbers break the format."""

    def scheme(document: dict[str, Any], shape: tuple[int, ...] = (4, 16), length: int = 64) -> Callable[[Maker], None]:
        return lambda m: m.raw("bad", document, shape, np.zeros(length, np.uint8))

    def arrays(
        coding: dict[str, Any],
        parameters: tuple[int, ...] = (),
        shape: tuple[int, int] = (4, 16),
        rest: dict[str, Any] | None = None,
        **given: Any,
    ) -> Callable[[Maker], None]:
        def make(m: Maker) -> None:
            parsed = schemes.parse({"coding": coding, **(rest or {})})
            filled = m.arrays(parsed, shape, parameters)
            for key, change in given.items():
                change(filled[key.replace("__", ".")])
            m.raw("bad", schemes.dump(parsed), shape, linear.pack(parsed, shape, filled, parameters), parameters)

        return make

    def padded(coding: dict[str, Any], shape: tuple[int, int], at: int, bit: int) -> Callable[[Maker], None]:
        def make(m: Maker) -> None:
            parsed = schemes.parse({"coding": coding})
            stored = linear.pack(parsed, shape, m.arrays(parsed, shape, ()))
            stored[at] |= bit
            m.raw("bad", schemes.dump(parsed), shape, stored)

        return make

    def put(index: Any, value: Any) -> Callable[[NDArray[Any]], None]:
        return lambda array: array.__setitem__(index, value)

    f16 = dense("float16")
    for bits in (0, 9, -1, True, 4.0):
        yield f"bits-{bits}".replace("--", "-minus-").lower(), scheme({"coding": affine(bits)})
    yield "group-size-0", scheme({"coding": affine(4, {"group": "flat", "size": 0})})
    yield "comb-does-not-divide", scheme({"coding": affine(4, {"group": "comb", "size": 7})})
    yield "zeros-and-offsets", scheme({"coding": affine(4, zeros=f16, offsets=f16)})
    yield "unknown-member", scheme({"coding": {**f16, "colour": 3}})
    yield "table-of-another-size", scheme({"coding": lookup(3, "nf4")})
    yield (
        "nested-too-deep",
        scheme({"coding": affine(4, scales=affine(4, scales=affine(4, scales=affine(4, scales=affine(4)))))}),
    )
    yield "panel-of-flat-groups", scheme({"coding": affine(4, {"group": "flat", "size": 16}, layout="panel")})
    yield "panel-without-scales", scheme({"coding": affine(4, block(16), scales=None, layout="panel")})
    yield "panel-of-8-inputs", scheme({"coding": affine(4, block(8), layout="panel")})
    yield "hadamard-block-12", scheme({"coding": f16, "transforms": [{"transform": "hadamard", "block": 12}]})
    yield "hadamard-does-not-divide", scheme({"coding": f16, "transforms": [{"transform": "hadamard", "block": 32}]})
    based = {"transform": "hadamard", "block": 16, "base": 4}
    for name, row in (("zero", [1, 1, -1, 0]), ("not-orthogonal", [1, 1, -1, 1])):
        rows = [[1, 1, 1, 1], [1, -1, 1, -1], row, [1, -1, -1, 1]]
        yield (
            f"hadamard-base-{name}",
            arrays(f16, rest={"transforms": [based]}, transforms__0__base=put(slice(4), rows)),
        )
    yield "hadamard-block-not-of-the-base", scheme({"coding": f16, "transforms": [{**based, "block": 6}]}, (4, 18))
    yield "five-parameters", scheme({"coding": f16, "corrections": [{"correction": "lowrank", "dtype": "float16"}] * 5})
    yield "vector-transposed", scheme({"coding": f16, "transposed": True}, (16,), 32)
    yield "columns-not-whole-vectors", scheme({"coding": {"coding": "additive", "books": 1, "bits": 8, "in_group": 7}})
    yield "extent-too-long", scheme({"coding": f16}, length=129)
    yield "extent-too-short", scheme({"coding": f16}, length=127)
    yield "extent-empty", scheme({"coding": f16}, length=0)
    yield "map-out-of-range", arrays(affine(4, {"group": "map", "count": 2}), groups=put(3, 2))
    yield (
        "permutation-repeats",
        arrays(f16, rest={"transforms": [{"transform": "permute"}]}, transforms__0__indices=put(slice(2), 5)),
    )
    yield (
        "permutation-out-of-range",
        arrays(f16, rest={"transforms": [{"transform": "permute"}]}, transforms__0__indices=put(0, 16)),
    )
    yield (
        "sign-zero",
        arrays(f16, rest={"transforms": [{"transform": "hadamard", "block": 4}]}, transforms__0__signs=put(7, 0)),
    )
    turn = {"transforms": [{"transform": "rotate", "rounds": 2, "dtype": "float16"}]}
    yield "rotate-pairs-meet", arrays(f16, rest=turn, transforms__0__pairs=put((1, 3), 5))
    yield "rotate-pair-out-of-range", arrays(f16, rest=turn, transforms__0__pairs=put((0, 0, 1), 2**32 - 1))
    yield "rotate-angle-infinite", arrays(f16, rest=turn, transforms__0__angles=put((1, 7), np.inf))
    yield "rotate-no-rounds", scheme({"coding": f16, "transforms": [{**turn["transforms"][0], "rounds": 0}]})
    yield "rotate-odd-side", scheme({"coding": f16, **turn}, (4, 15), 512)
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        for role in ("scales", "zeros", "offsets"):
            more = {} if role == "scales" else {role: f16}
            yield f"{role}-{name}", arrays(affine(4, block(8), **more), **{role: put((2, 1), value)})
    yield "scales-nan-in-a-panel", arrays(affine(4, block(16), layout="panel"), scales=put((2, 0), np.nan))
    yield (
        "scales-e8m0-255",
        arrays(lookup(4, "e2m1", block(8), scales=lookup(8, "e8m0")), scales__codes=put((0, 0), 255)),
    )
    yield "nested-scales-infinite", arrays(affine(4, block(8), scales=affine(6)), scales__scales=put((1, 0), np.inf))
    yield "table-nan", arrays(lookup(2, "tensor"), table=put(1, np.nan))
    yield (
        "codebook-nan",
        arrays({"coding": "additive", "books": 2, "bits": 3, "in_group": 8}, codebooks=put((1, 2, 0, 3), np.nan)),
    )
    quantlut = {"coding": "trellis", "bits": 2, "function": "quantlut", "table_bits": 4}
    yield "trellis-table-nan", arrays(quantlut, table=put((3, 0), np.nan))
    yield "trellis-of-9-bits", scheme({"coding": {**quantlut, "bits": 9}})
    yield "trellis-without-table-bits", scheme({"coding": {"coding": "trellis", "bits": 2, "function": "lut"}})
    yield "trellis-table-for-a-computed-function", scheme({"coding": {**quantlut, "function": "mcg"}})
    yield "trellis-index-too-wide", scheme({"coding": {**quantlut, "function": "quantlut_sym", "table_bits": 16}})
    yield "trellis-vector-of-3", scheme({"coding": {**quantlut, "vector": 3}})
    yield "trellis-tile-missing", scheme({"coding": {"coding": "trellis", "bits": 2, "function": "mcg"}}, (17, 16), 64)
    yield "trellis-as-scales", scheme({"coding": affine(4, scales={"coding": "trellis", "bits": 2, "function": "mcg"})})
    e8p = {"coding": "lattice", "lattices": ["e8p", "e81b"]}
    yield "lattice-factor-infinite", arrays(e8p, factors=put(1, np.inf))
    yield "lattice-of-no-lattice", scheme({"coding": {**e8p, "lattices": []}})
    yield "lattice-of-five-lattices", scheme({"coding": {**e8p, "lattices": ["e8p"] * 5}})
    yield "lattice-columns-not-whole-vectors", scheme({"coding": e8p}, (4, 15))
    yield "lattice-as-scales", scheme({"coding": affine(4, block(2), scales=e8p)})
    halves = {"coding": "split", "columns": [8, 8], "parts": [f16, f16]}
    yield "split-does-not-fill", scheme({"coding": {**halves, "columns": [8, 7]}}, length=128)
    yield "split-of-no-columns", scheme({"coding": {**halves, "columns": [16, 0]}}, length=128)
    yield "split-part-missing", scheme({"coding": {**halves, "parts": [f16]}}, length=128)
    yield "split-in-a-split", scheme({"coding": {**halves, "parts": [f16, {**halves, "columns": [4, 4]}]}}, length=192)
    yield "split-as-scales", scheme({"coding": affine(4, block(1), scales=halves)}, length=192)
    yield "split-part-in-panels", scheme({"coding": {**halves, "parts": [f16, affine(4, layout="panel")]}}, length=192)
    for name, role in (("scales", "parts__1__scales"), ("nested-scales", "parts__1__scales__scales")):
        inner = affine(4, block(4), scales=f16 if name == "scales" else affine(4, block(2)))
        yield f"split-{name}-nan", arrays({**halves, "parts": [f16, inner]}, **{role: put((1, 0), np.nan)})
    sparse = {"corrections": [{"correction": "outliers", "dtype": "float16"}]}
    yield "pointers-fall", arrays(f16, (5,), rest=sparse, corrections__0__row_pointers=put(slice(1, 3), [4, 3]))
    yield "pointers-do-not-start-at-0", arrays(f16, (5,), rest=sparse, corrections__0__row_pointers=put(0, 1))
    yield "pointers-end-late", arrays(f16, (5,), rest=sparse, corrections__0__row_pointers=put(4, 6))
    yield "outlier-column-out-of-range", arrays(f16, (5,), rest=sparse, corrections__0__columns=put(4, 16))
    yield "outlier-nan", arrays(f16, (5,), rest=sparse, corrections__0__values=put(4, np.nan))
    columns = {"corrections": [{"correction": "outlier_columns", "dtype": "float16"}]}
    yield "columns-do-not-rise", arrays(f16, (3,), rest=columns, corrections__0__columns=put(slice(3), [1, 1, 2]))
    lowrank = {"corrections": [{"correction": "lowrank", "dtype": "float16"}]}
    yield "lowrank-infinite", arrays(f16, (3,), rest=lowrank, corrections__0__a=put((0, 0), np.inf))
    yield (
        "rank-beyond-the-sides",
        lambda m: m.raw("bad", {"coding": f16, **lowrank}, (4, 16), np.zeros(64, np.uint8), (5,)),
    )
    yield "parameter-unused", lambda m: m.raw("bad", {"coding": f16}, (4, 16), np.zeros(128, np.uint8), (1,))
    yield "bits-after-the-stream", padded(affine(3, scales=None), (3, 3), 3, 128)
    yield "padding-between-roles", padded(affine(3, block(8)), (4, 16), 20, 1)
    yield "panel-row-beyond", padded(affine(4, block(16), layout="panel"), (3, 16), 32 + 3 * 4, 1)
    yield "panel-scale-beyond", padded(affine(4, block(16), layout="panel"), (3, 16), 2 * 3, 1)
    books = {"coding": "additive", "books": 1, "bits": 1, "in_group": 4, "layout": "panel"}
    yield "panel-of-books-row-beyond", padded(books, (3, 4), 64, 8)
    yield "panel-input-beyond", padded(affine(4, block(16), layout="panel"), (3, 3), 32 + 3, 16)


def later() -> Iterator[tuple[str, Callable[[Maker], None]]]:
    """What a later version may add: unsupported, by name."""
    f16 = dense("float16")
    documents = {
        "coding": {"coding": {"coding": "wavelet", "levels": 3}},
        "table": {"coding": lookup(4, "nf5")},
        "layout": {"coding": affine(4, block(16), layout="panel2")},
        "group": {"coding": affine(4, {"group": "spiral", "size": 3})},
        "transform": {"coding": f16, "transforms": [{"transform": "givens"}]},
        "correction": {"coding": f16, "corrections": [{"correction": "magic"}]},
        "dtype": {"coding": dense("float4_e2m1fn")},
        "lattice": {"coding": {"coding": "lattice", "lattices": ["e8p", "leech"]}},
        "function": {"coding": {"coding": "trellis", "bits": 2, "function": "3mad"}},
        "order": {"coding": {"coding": "trellis", "bits": 2, "function": "mcg", "order": "columns"}},
    }
    for name, document in documents.items():
        yield f"later-{name}", lambda m, document=document: m.raw("bad", document, (4, 16), np.zeros(64, np.uint8))  # type: ignore[misc]


def damages(good: bytes) -> Iterator[tuple[str, bytes]]:
    """One fault each in a good file's own structure."""

    def flip(at: int, mask: int = 1) -> bytes:
        raw = bytearray(good)
        raw[at] ^= mask
        return bytes(raw)

    start, length = (int.from_bytes(good[-128 + place : -120 + place], "little") for place in (8, 16))
    yield "empty", b""
    yield "magic", flip(0)
    yield "byte-order", flip(8)
    yield "preamble-reserved", flip(40)
    yield "cut-short", good[:-1]
    yield "cut-in-half", good[: len(good) // 2]
    yield "bytes-after-the-trailer", good + bytes(64)
    yield "trailer-flipped", flip(len(good) - 60)
    yield "index-flipped", flip(start + length // 2)
    first = good.index(b"QFINDEX")
    yield "extent-flipped", flip(64)
    yield "padding-not-zero", flip(first - 1)
    yield "superseded-index-flipped", flip(first + 130)
    yield "superseded-trailer-flipped", flip(start - 1)
    yield "text-mode", good.replace(b"\r\n", b"\n")
