"""The valid conformance vectors: a function a file, a tensor a feature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from vector_maker import Maker, affine, block, dense, lookup

from qformat.codings import tables
from qformat.dtypes import TABLE as DTYPES
from qformat.dtypes import numpy_dtype

VALID: dict[str, Callable[[Maker], None]] = {}


def valid(make: Callable[[Maker], None]) -> Callable[[Maker], None]:
    VALID[make.__name__.replace("_", "-")] = make
    return make


@valid
def dense_dtypes(m: Maker) -> None:
    for dtype in DTYPES:
        m.add(dtype, dense(dtype), (3, 5), dtype=dtype)


@valid
def shapes(m: Maker) -> None:
    """Scalars, vectors, empty tensors, eight dimensions, 3-D experts both ways round, odd sides."""
    m.add("scalar", dense("float32"), ())
    m.add("vector", dense("float32"), (7,))
    for shape in ((0,), (0, 5), (5, 0), (3, 0, 2)):
        m.add(
            "empty." + "x".join(map(str, shape)),
            affine(4, block(16), layout="panel") if len(shape) > 1 else dense("int8"),
            shape,
        )
    m.add("eight", dense("int8"), (1, 2, 1, 3, 1, 2, 1, 2))
    m.add("one.by.one", affine(3), (1, 1))
    m.add("odd", affine(4, block(16), layout="panel"), (17, 43))
    m.add("experts", affine(4, block(16), layout="panel"), (3, 5, 32))
    m.add("experts.in.out", affine(4, block(16), layout="panel"), (3, 32, 5), transposed=True)
    m.add("conv1d", affine(4, block(16), layout="panel"), (32, 6), transposed=True)


@valid
def affine_plain(m: Maker) -> None:
    for bits in range(1, 9):
        for signed in (False, True):
            m.add(f"{'signed' if signed else 'unsigned'}.{bits}", affine(bits, block(5), signed=signed), (3, 13))
    m.add("no.scales", {"coding": "affine", "bits": 5}, (3, 13))
    m.add("no.scales.zeros", {"coding": "affine", "bits": 5, "zeros": dense("int32")}, (3, 13))


@valid
def affine_zeros_and_offsets(m: Maker) -> None:
    for role in ("zeros", "offsets"):
        for dtype in ("float16", "bfloat16", "float32", "int8"):
            m.add(f"{role}.{dtype}", affine(4, block(8), **{role: dense(dtype)}), (5, 20))
    m.add("zeros.integer", affine(3, block(8), zeros={"coding": "affine", "bits": 3}), (5, 20))
    m.add("zeros.signed", affine(3, block(8), zeros={"coding": "affine", "bits": 4, "signed": True}), (5, 20))


@valid
def groupings(m: Maker) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "matrix": block(None, None),
        "row": block(None),
        "column": block(1, None),
        "columns": block(6),
        "blocks": block(4, 3),
        "flat": {"group": "flat", "size": 9},
        "comb": {"group": "comb", "size": 7},
        "map": {"group": "map", "count": 3},
        "larger": block(100, 100),
    }
    for name, group in kinds.items():
        m.add(f"affine.{name}", affine(4, group, zeros=dense("float16")), (7, 11))
        m.add(f"lookup.{name}", lookup(4, "nf4", group), (7, 11))


@valid
def panels(m: Maker) -> None:
    for bits in range(1, 9):
        for size in (16, 64, 80, None):
            coding = affine(bits, block(size), zeros=dense("float16"), signed=bits % 2 == 0, layout="panel")
            m.add(f"affine.{bits}.{size or 'row'}", coding, (18, 147))


@valid
def panel_headers(m: Maker) -> None:
    nested = affine(6, block(4))
    for dtype in ("float32", "bfloat16", "float8_e4m3fn", "float64"):
        m.add(f"scales.{dtype}", affine(4, block(32), scales=dense(dtype), layout="panel"), (19, 70))
    m.add("zeros.integer", affine(4, block(32), zeros={"coding": "affine", "bits": 4}, layout="panel"), (19, 70))
    m.add("zeros.3.bits", affine(3, block(16), zeros={"coding": "affine", "bits": 3}, layout="panel"), (33, 50))
    m.add("offsets", affine(4, block(32), offsets=dense("float16"), layout="panel"), (19, 70))
    m.add("nested", affine(4, block(32), scales=nested, offsets=nested, layout="panel"), (19, 70))
    m.add(
        "nested.signed",
        affine(6, block(16), signed=True, scales={**nested, "bits": 8, "signed": True}, layout="panel"),
        (19, 70),
    )
    m.add("lookup.row", lookup(3, "row", block(16), layout="panel"), (19, 70))
    m.add("lookup.tensor", lookup(4, "tensor", block(None), layout="panel"), (19, 70))
    m.add("lookup.nf4", lookup(4, "nf4", block(64), layout="panel"), (19, 70))
    m.add("lookup.offset", lookup(4, "nf4", block(64), offset=dense("float32"), layout="panel"), (19, 70))
    m.add("sixteen.rows", affine(4, block(64), layout="panel"), (16, 64))


@valid
def lookup_tables(m: Maker) -> None:
    for name, row in tables.TABLE.items():
        every = np.arange(2**row.bits).astype(np.uint8).reshape(2, -1)
        m.add(name, {"coding": "lookup", "bits": row.bits, "table": name}, every.shape, arrays={"codes": every})
    for bits in range(1, 9):
        m.add(f"tensor.{bits}", lookup(bits, "tensor", block(4)), (4, 9))
        m.add(f"row.{bits}", lookup(bits, "row", block(4)), (4, 9))
    m.add("offset", lookup(4, "nf4", block(4), offset=dense("float32")), (4, 9))


@valid
def nesting(m: Maker) -> None:
    """Codings in codings, to the depth of four."""
    deep = affine(4, {"group": "flat", "size": 3}, scales=affine(3, block(2), scales=lookup(2, "tensor", block(None))))
    m.add("four.deep", deep, (6, 17))
    m.add(
        "map.in.map", affine(4, {"group": "map", "count": 5}, scales=affine(4, {"group": "map", "count": 2})), (6, 17)
    )
    m.add("zeros.nested", affine(4, block(4), zeros=affine(8, block(None, None), offsets=dense("float32"))), (6, 17))


@valid
def additive(m: Maker) -> None:
    for books, bits, wide, high in (
        (2, 8, 8, 1),
        (1, 8, 8, 1),
        (4, 8, 8, 1),
        (8, 8, 8, 1),
        (4, 4, 8, 1),
        (8, 4, 16, 1),
        (1, 9, 4, 3),
        (3, 3, 5, 2),
    ):
        coding = {
            "coding": "additive",
            "books": books,
            "bits": bits,
            "in_group": wide,
            "out_group": high,
            "group": block(None, high),
            "scales": dense("float16"),
        }
        m.add(f"{books}x{bits}.g{wide}.o{high}", coding, (7, 80))
    m.add("1x12", {"coding": "additive", "books": 1, "bits": 12, "in_group": 2}, (5, 8))


@valid
def additive_panels(m: Maker) -> None:
    for books, bits, wide, high, rows in ((2, 8, 8, 1, 70), (4, 4, 8, 1, 130), (1, 3, 4, 2, 9), (2, 7, 4, 1, 64)):
        coding = {"coding": "additive", "books": books, "bits": bits, "in_group": wide, "out_group": high}
        coding |= {"group": block(None, high), "scales": dense("float16"), "layout": "panel"}
        m.add(f"{books}x{bits}.g{wide}.o{high}", coding, (rows, 2 * wide))
    for bits in (10, 11):
        coding = {"coding": "additive", "books": 1, "bits": bits, "in_group": 2, "layout": "panel"}
        m.add(f"1x{bits}", coding, (5, 8))
    sixteen = {"coding": "additive", "books": 1, "bits": 16, "in_group": 1, "layout": "panel"}
    entries = np.linspace(-4, 4, 2**16).astype(np.float16).reshape(1, -1, 1, 1)
    m.add("1x16", sixteen, (3, 5), compression="zstd", arrays={"codebooks": entries})


@valid
def trellis(m: Maker) -> None:
    """Every function at some width, every width and order; sides that fill no tile."""
    for bits, function in ((2, "1mad"), (3, "2mad"), (4, "3inst"), (5, "mcg"), (8, "mul1")):
        m.add(function, {"coding": "trellis", "bits": bits, "function": function}, (16, 32))
    tables = ((1, 1, 12, "lut"), (2, 2, 10, "lut"), (3, 1, 9, "quantlut"), (6, 2, 11, "quantlut"))
    tables += ((2, 2, 9, "quantlut_sym"), (4, 2, 1, "quantlut_sym"), (7, 2, 12, "quantlut_sym"))
    for bits, vector, width, function in tables:
        coding = {"coding": "trellis", "bits": bits, "function": function, "vector": vector, "table_bits": width}
        m.add(f"{function}.{bits}.{vector}.{width}", {**coding, "table": dense("bfloat16")}, (16, 32))
    for order in ("rows", "qtip", "exl3"):
        m.add(f"order.{order}", {"coding": "trellis", "bits": 3, "function": "mul1", "order": order}, (40, 23))
    m.add("empty", {"coding": "trellis", "bits": 3, "function": "mul1"}, (0, 23))


@valid
def trellis_formats(m: Maker) -> None:
    """What QTIP and EXL3 hold: rotations and scales of both sides around a trellis."""
    signed = {"transform": "scale", "dtype": "float16"}
    across, down = {"transform": "hadamard", "block": 128}, {"transform": "hadamard", "block": 32}
    every = {"transforms.1.signs": np.ones(128, np.int8), "output_transforms.1.signs": np.ones(32, np.int8)}
    for function in ("3inst", "mcg", "mul1"):
        coding = {"coding": "trellis", "bits": 3, "function": function, "order": "exl3"}
        m.add(
            f"exl3.{function}",
            coding,
            (32, 128),
            transforms=[signed, across],
            output_transforms=[signed, down],
            arrays=every,
        )
    coding = {"coding": "trellis", "bits": 2, "function": "quantlut_sym", "vector": 2, "table_bits": 9, "order": "qtip"}
    rest = {"transforms": [signed, across], "output_transforms": [{**signed, "dtype": "float32"}, down]}
    m.add("qtip", coding, (32, 128), arrays=every, **rest)


@valid
def lattice(m: Maker) -> None:
    """Every pattern and every sign of the lattices; sums of points; QuIP# between its rotations."""
    rng, row = np.random.default_rng(0), np.arange(256)
    codes = np.stack([row << 8 | rng.permutation(256) for _ in range(8)]).astype(np.uint16)
    m.add("e8p", {"coding": "lattice", "lattices": ["e8p"]}, (8, 2048), arrays={"codes.0": codes})
    m.add(
        "e81b", {"coding": "lattice", "lattices": ["e81b"]}, (1, 2048), arrays={"codes.0": row[None].astype(np.uint8)}
    )
    factors = {"e8p": np.float32([1, 1 / 3.45]), "e81b": np.float32([1, 1 / 2.04])}
    scale, signs = {"transform": "scale", "dtype": "float16"}, {"transform": "hadamard", "block": 64}
    rest = {"transforms": [scale, signs], "output_transforms": [scale, {**signs, "block": 16}]}
    ones = {"transforms.1.signs": np.ones(64, np.int8), "output_transforms.1.signs": np.ones(16, np.int8)}
    m.add(
        "quip.2",
        {"coding": "lattice", "lattices": ["e8p"]},
        (16, 64),
        arrays={**ones, "factors": factors["e8p"][:1]},
        **rest,
    )
    for bits, second in ((3, "e81b"), (4, "e8p")):
        coding = {"coding": "lattice", "lattices": ["e8p", second]}
        m.add(f"quip.{bits}", coding, (16, 64), arrays={**ones, "factors": factors[second]}, **rest)
    m.add("four", {"coding": "lattice", "lattices": ["e8p", "e81b", "e81b", "e8p"]}, (5, 24))
    parts = [{"coding": "lattice", "lattices": ["e81b"]}, dense("float16")]
    m.add("part", {"coding": "split", "columns": [16, 3], "parts": parts}, (5, 19))
    m.add("empty", {"coding": "lattice", "lattices": ["e8p"]}, (0, 8))


@valid
def split(m: Maker) -> None:
    """Parts of any coding; EXL2, whose scales are squares of four bits under a scale per group of all rows."""
    squares = lookup(4, "tensor", block(1, None), scales=dense("float16"))
    exl2 = [affine(bits, block(size), signed=True, scales=squares) for bits, size in ((6, 16), (5, 32), (4, 32))]
    tables = {f"parts.{part}.scales.table": np.arange(1, 17, dtype=np.float32) ** 2 for part in range(3)}
    coding = {"coding": "split", "columns": [32, 64, 48], "parts": exl2}
    m.add("exl2", coding, (8, 144), transforms=[{"transform": "permute"}], arrays=tables)
    every = [
        dense("bfloat16"),
        affine(3, {"group": "map", "count": 2}, zeros=dense("float16")),
        lookup(4, "nf4", {"group": "flat", "size": 5}),
        {"coding": "additive", "books": 2, "bits": 4, "in_group": 4, "scales": dense("float16")},
        {"coding": "trellis", "bits": 2, "function": "quantlut", "table_bits": 5},
    ]
    m.add("every", {"coding": "split", "columns": [1, 7, 11, 8, 20], "parts": every}, (9, 47))
    m.add("one", {"coding": "split", "columns": [13], "parts": [affine(2, block(None, None))]}, (3, 13))
    outliers = {"coding": "split", "columns": [12, 4], "parts": [affine(3, block(8)), dense("float16")]}
    m.add("mixed", outliers, (16, 10), transposed=True, transforms=[{"transform": "permute"}])


@valid
def transforms(m: Maker) -> None:
    each: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
        "permute": ({"transform": "permute"}, ()),
        "scale": ({"transform": "scale", "dtype": "float16"}, ()),
        "hadamard": ({"transform": "hadamard", "block": 16}, ()),
        "reassemble": ({"transform": "reassemble"}, (48, 40)),
    }
    coding = affine(4, block(16), zeros=dense("float16"), layout="panel")
    for name, (transform, parameters) in each.items():
        m.add(f"input.{name}", coding, (20, 32), parameters, transforms=[transform])
        if name != "reassemble":
            small = {**transform, "block": 4} if name == "hadamard" else transform
            m.add(f"output.{name}", coding, (20, 32), output_transforms=[small])
    for outputs in (
        [],
        [{"transform": "permute"}, {"transform": "scale", "dtype": "float32"}, {"transform": "hadamard", "block": 2}],
    ):
        several = [each[name][0] for name in ("permute", "scale", "reassemble", "hadamard")]
        m.add(f"together.{len(outputs)}", coding, (20, 32), (48, 40), transforms=several, output_transforms=outputs)


def _paley(prime: int) -> np.ndarray[Any, Any]:
    """A Hadamard matrix of order prime + 1, for primes that leave 3 when divided by 4."""
    squares = {x * x % prime for x in range(1, prime)}
    matrix = np.ones((prime + 1, prime + 1), np.int8)
    for row in range(prime):
        for column in range(prime):
            matrix[row + 1, column + 1] = 1 if (column - row) % prime in {0, *squares} else -1
        matrix[row + 1, 0] = -1
    return matrix


@valid
def hadamard_bases(m: Maker) -> None:
    """Sides that are no power of two: QuIP#'s and QTIP's Hadamard matrices of 12 · 2^n and 20 · 2^n."""
    coding, scale = {"coding": "lattice", "lattices": ["e8p"]}, {"transform": "scale", "dtype": "float16"}
    sides = [{"transform": "hadamard", "block": 48, "base": 12}, {"transform": "hadamard", "block": 20, "base": 20}]
    arrays = {"transforms.1.base": _paley(11), "output_transforms.1.base": _paley(19)}
    rest = {"transforms": [scale, sides[0]], "output_transforms": [scale, sides[1]]}
    m.add("quip", coding, (20, 48), arrays=arrays, **rest)
    blocks = [{"transform": "hadamard", "block": 24, "base": 12}]
    m.add("blocks", affine(4, block(16)), (5, 72), transforms=blocks, arrays={"transforms.0.base": _paley(11)})


@valid
def rotations(m: Maker) -> None:
    """Rounds of rotations on both sides, alone and between others; ParoQuant's, whose pairs stay within a group."""
    coding = affine(4, block(16), zeros=dense("float16"), layout="panel")
    for dtype in ("float16", "float32"):
        m.add(f"input.{dtype}", coding, (20, 32), transforms=[{"transform": "rotate", "rounds": 5, "dtype": dtype}])
    once, scale = {"transform": "rotate", "rounds": 1, "dtype": "bfloat16"}, {"transform": "scale", "dtype": "float16"}
    m.add("output", coding, (20, 32), output_transforms=[once])
    m.add("both", coding, (20, 32), transforms=[scale, once, {"transform": "permute"}], output_transforms=[once, scale])
    m.add("transposed", coding, (3, 32, 10), transposed=True, transforms=[once])
    pairs = [[m.rng.permutation(16) + left for left in (0, 16, 32, 48)] for _ in range(8)]
    paro = [scale, {"transform": "rotate", "rounds": 8, "dtype": "float16"}]
    arrays = {"transforms.1.pairs": np.array(pairs, np.uint32).reshape(8, 32, 2)}
    m.add(
        "paroquant",
        affine(4, block(16), zeros={"coding": "affine", "bits": 4}),
        (6, 64),
        transforms=paro,
        arrays=arrays,
    )


@valid
def ggml_grids(m: Maker) -> None:
    """IQ2, IQ3 and IQ1: the few numbers that entries of their grids consist of, under scales d · (code + 1/2)."""
    for name, bits, width in (("gguf.iq2_xxs", 3, 4), ("gguf.iq3_s", 4, 4), ("gguf.iq1_s", 3, 3)):
        scales = affine(width, block(8), zeros=dense("float16"))
        half = {"scales.zeros": np.full((3, 2), -0.5, np.float16)}
        m.add(name, lookup(bits, "tensor", block(32), scales=scales, layout="panel"), (3, 512), arrays=half)


@valid
def corrections(m: Maker) -> None:
    kinds = {"lowrank": 3, "outliers": 17, "outlier_columns": 4}
    for name, number in kinds.items():
        for dtype in ("float16", "float32"):
            m.add(
                f"{name}.{dtype}",
                affine(3, block(16), layout="panel"),
                (20, 32),
                (number,),
                corrections=[{"correction": name, "dtype": dtype}],
            )
        m.add(
            f"{name}.none",
            affine(3, block(16)),
            (20, 32),
            (0,),
            corrections=[{"correction": name, "dtype": "bfloat16"}],
        )
    every = [{"correction": name, "dtype": "float16"} for name in kinds]
    m.add(
        "together",
        affine(3, block(16)),
        (20, 32),
        tuple(kinds.values()),
        corrections=every,
        transforms=[{"transform": "permute"}],
    )
    m.add("transposed", affine(3, block(16)), (32, 20), (3,), corrections=every[:1], transposed=True)


@valid
def formats(m: Maker) -> None:
    """What other formats hold, one tensor each: the rows of roles.md."""
    panel = {"layout": "panel"}
    m.add("gptq.act-order", affine(4, {"group": "map", "count": 4}, zeros={"coding": "affine", "bits": 4}), (6, 32))
    m.add(
        "gptq.sorted",
        affine(4, block(16), zeros={"coding": "affine", "bits": 4}, **panel),
        (6, 32),
        transforms=[{"transform": "permute"}],
    )
    m.add("gptq.symmetric", affine(4, block(16), signed=True, **panel), (6, 32))
    m.add(
        "awq.smooth",
        affine(4, block(16), zeros={"coding": "affine", "bits": 4}, **panel),
        (6, 32),
        transforms=[{"transform": "scale", "dtype": "float16"}],
    )
    flat64, flat256 = {"group": "flat", "size": 64}, {"group": "flat", "size": 256}
    double = lookup(8, "dynamic8", flat256, offset=dense("float32"))
    m.add("bnb.nf4", lookup(4, "nf4", flat64), (13, 83))
    m.add("bnb.fp4", lookup(4, "fp4", flat64), (13, 83))
    m.add("bnb.double", lookup(4, "nf4", flat64, scales=double), (13, 83))
    m.add(
        "bnb.int8",
        affine(8, block(None), signed=True, scales=dense("float32"), **panel),
        (13, 83),
        activations={"bits": 8, "granularity": "token", "outlier_threshold": 6.0},
    )
    m.add("eetq", affine(8, block(None), signed=True, **panel), (6, 64))
    m.add("hqq.axis1", affine(3, {"group": "flat", "size": 8}, zeros=dense("float16")), (6, 12))
    m.add("hqq.axis0", affine(4, {"group": "comb", "size": 8}, zeros=dense("float16")), (6, 12))
    m.add(
        "hqq.meta",
        affine(
            2,
            {"group": "flat", "size": 8},
            zeros=affine(8, block(None, None), scales=dense("float16"), zeros=dense("float16")),
        ),
        (6, 12),
    )
    kquant = affine(6, block(8))
    m.add("gguf.q4_0", affine(4, block(32), signed=True, **panel), (6, 64))
    m.add("gguf.q4_1", affine(4, block(32), offsets=dense("float16"), **panel), (6, 64))
    m.add("gguf.q4_k", affine(4, block(32), scales=kquant, offsets=kquant, **panel), (6, 512))
    m.add(
        "gguf.q2_k", affine(2, block(16), scales=affine(4, block(16)), offsets=affine(4, block(16)), **panel), (6, 512)
    )
    m.add(
        "gguf.q3_k",
        affine(3, block(16), signed=True, scales={**affine(6, block(16)), "signed": True}, **panel),
        (6, 512),
    )
    m.add(
        "gguf.q6_k",
        affine(6, block(16), signed=True, scales={**affine(8, block(16)), "signed": True}, **panel),
        (6, 512),
    )
    m.add("gguf.iq4_nl", lookup(4, "iq4_nl", block(32), scales=dense("float16"), **panel), (6, 64))
    m.add("fp8.block", lookup(8, "e4m3", block(16, 16)), (33, 40))
    m.add("fp8.tensor", lookup(8, "e4m3", block(None, None)), (6, 40))
    m.add("fp8.row", lookup(8, "e4m3", block(None), **panel), (6, 40))
    m.add("mxfp4", lookup(4, "e2m1", block(32), scales=dense("float8_e8m0fnu"), **panel), (6, 64))
    m.add("mxfp6", lookup(6, "e2m3", block(32), scales=dense("float8_e8m0fnu"), **panel), (6, 64))
    m.add(
        "nvfp4",
        lookup(4, "e2m1", block(16), scales=lookup(8, "e4m3", block(None, None)), **panel),
        (6, 64),
        arrays={"scales.codes": np.arange(24).astype(np.uint8).reshape(6, 4) + np.uint8(40)},
    )
    m.add("mlx", affine(5, block(32), offsets=dense("bfloat16"), scales=dense("bfloat16"), **panel), (6, 64))
    m.add("quanto", affine(4, {"group": "flat", "size": 32}, offsets=dense("float16")), (6, 64))
    m.add(
        "onnx", affine(4, block(16), zeros={"coding": "affine", "bits": 4}, scales=dense("float32"), **panel), (6, 40)
    )
    m.add(
        "bitnet",
        affine(2, block(None, None), zeros=dense("int8"), scales=dense("float32")),
        (6, 40),
        arrays={"zeros": np.ones((1, 1), np.int8)},
    )
    outliers = [{"correction": "outliers", "dtype": "float16"}]
    m.add("squeezellm", lookup(4, "row", scales=None), (6, 40), (9,), corrections=outliers)
    m.add(
        "squeezellm.full",
        lookup(3, "row", scales=None),
        (6, 40),
        (9, 2),
        corrections=[*outliers, {"correction": "outlier_columns", "dtype": "float32"}],
    )
    stat = affine(3, block(16), zeros=dense("float16"))
    m.add(
        "spqr",
        affine(3, block(16), scales=stat, zeros=stat),
        (6, 64),
        (9,),
        transforms=[{"transform": "permute"}],
        corrections=outliers,
    )
    m.add("tail", affine(3, block(16), zeros=dense("float16"), **panel), (6, 64), (9,), corrections=outliers)
    m.add(
        "sinq",
        affine(4, block(16), zeros=dense("float16"), **panel),
        (6, 64),
        transforms=[{"transform": "scale", "dtype": "float16"}],
    )
    m.add(
        "qllm",
        affine(4, block(None), zeros=dense("float16"), **panel),
        (6, 64),
        (70, 90),
        transforms=[{"transform": "reassemble"}],
    )
    m.add("aqlm", {"coding": "additive", "books": 2, "bits": 8, "in_group": 8, "scales": dense("float16")}, (6, 64))
    smooth, rotate = {"transform": "scale", "dtype": "float16"}, {"transform": "hadamard", "block": 8}
    low = [{"correction": "lowrank", "dtype": "bfloat16"}]
    vectors = {"coding": "additive", "books": 2, "bits": 6, "in_group": 1, "out_group": 4}
    m.add("vptq", vectors, (6, 32), (1,), transforms=[smooth, {"transform": "permute"}], corrections=low)
    coding = affine(4, block(16), zeros=dense("float16"), **panel)
    m.add("rotated", coding, (8, 64), transforms=[{**rotate, "block": 64}], output_transforms=[rotate])
    m.add("svdquant", affine(4, block(16), signed=True, **panel), (6, 64), (4,), corrections=low, transforms=[smooth])


@valid
def container_features(m: Maker) -> None:
    """Aliases, attachments, compression, extents of several chunks, page alignment."""
    m.add("embed", dense("bfloat16"), (11, 8))
    m.writer.alias("lm_head", "embed")
    zeros = {"values": np.zeros((1, 5 << 20), np.uint8)}
    zeros["values"][0, 4 << 20 :: 999] = 7
    m.add("large", dense("uint8"), (5 << 20,), compression="zstd", arrays=zeros, dtype="uint8")
    for dtype in ("bfloat16", "float32"):
        ramp = {"values": np.linspace(-1, 1, 3000).astype(numpy_dtype(dtype)).reshape(1, -1)}
        m.add(f"split.{dtype}", dense(dtype), (3000,), compression="split", arrays=ramp, dtype=dtype)
    m.add("after", dense("float32"), (3,))
    m.writer.attachment("config.json", b'{"model_type": "llama"}')
    m.writer.attachment("tokenizer/empty", b"")


@valid
def edited_metadata(m: Maker) -> None:
    """Its metadata are edited twice after it is made. The extent does not fill its last 64 bytes."""
    m.add("w", affine(4, block(16), layout="panel"), (5, 32))
    m.add("tail", dense("int8"), (5,))
