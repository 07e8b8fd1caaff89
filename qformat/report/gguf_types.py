"""The types of ggml: the blocks that the tensors of a GGUF file are made of."""

from __future__ import annotations

from typing import NamedTuple

from qformat.report.overview import Stored


class BlockType(NamedTuple):
    """A ggml type: elements and bytes of a block, nominal bits, and the family of codings it belongs to."""

    name: str
    elements: int
    nbytes: int
    bits: int | None
    coding: str | None


TYPES: dict[int, BlockType] = {
    0: BlockType("float32", 1, 4, None, "dense"),
    1: BlockType("float16", 1, 2, None, "dense"),
    2: BlockType("Q4_0", 32, 2 + 16, 4, "affine"),
    3: BlockType("Q4_1", 32, 2 + 2 + 16, 4, "affine"),
    6: BlockType("Q5_0", 32, 2 + 4 + 16, 5, "affine"),
    7: BlockType("Q5_1", 32, 2 + 2 + 4 + 16, 5, "affine"),
    8: BlockType("Q8_0", 32, 2 + 32, 8, "affine"),
    9: BlockType("Q8_1", 32, 2 + 2 + 32, 8, "affine"),
    10: BlockType("Q2_K", 256, 16 + 64 + 2 + 2, 2, "affine"),
    11: BlockType("Q3_K", 256, 32 + 64 + 12 + 2, 3, "affine"),
    12: BlockType("Q4_K", 256, 2 + 2 + 12 + 128, 4, "affine"),
    13: BlockType("Q5_K", 256, 2 + 2 + 12 + 32 + 128, 5, "affine"),
    14: BlockType("Q6_K", 256, 128 + 64 + 16 + 2, 6, "affine"),
    15: BlockType("Q8_K", 256, 4 + 256 + 32, 8, "affine"),
    16: BlockType("IQ2_XXS", 256, 2 + 64, 2, "lattice"),
    17: BlockType("IQ2_XS", 256, 2 + 64 + 8, 2, "lattice"),
    18: BlockType("IQ3_XXS", 256, 2 + 64 + 32, 3, "lattice"),
    19: BlockType("IQ1_S", 256, 50, 1, "lattice"),
    20: BlockType("IQ4_NL", 32, 2 + 16, 4, "lookup"),
    21: BlockType("IQ3_S", 256, 110, 3, "lattice"),
    22: BlockType("IQ2_S", 256, 82, 2, "lattice"),
    23: BlockType("IQ4_XS", 256, 2 + 2 + 4 + 128, 4, "lookup"),
    24: BlockType("int8", 1, 1, None, "dense"),
    25: BlockType("int16", 1, 2, None, "dense"),
    26: BlockType("int32", 1, 4, None, "dense"),
    27: BlockType("int64", 1, 8, None, "dense"),
    28: BlockType("float64", 1, 8, None, "dense"),
    29: BlockType("IQ1_M", 256, 56, 1, "lattice"),
    30: BlockType("bfloat16", 1, 2, None, "dense"),
    34: BlockType("TQ1_0", 256, 48 + 4 + 2, None, "affine"),
    35: BlockType("TQ2_0", 256, 64 + 2, 2, "affine"),
    39: BlockType("MXFP4", 32, 1 + 16, 4, "lookup"),
    40: BlockType("NVFP4", 64, 4 + 32, 4, "lookup"),
    41: BlockType("Q1_0", 128, 2 + 16, 1, "affine"),
    42: BlockType("Q2_0", 64, 2 + 16, 2, "affine"),
}

STORED = {
    kind: Stored(
        block.name,
        block.name,
        block.coding,
        None if block.coding == "dense" else block.name,
        block.bits,
        None,
        block.name,
    )
    for kind, block in TYPES.items()
}
