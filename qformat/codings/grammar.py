"""The grammar of codings: frozen data classes of parameters, as they stand in a file's JSON.

A coding says how stored numbers decode to a matrix of float32; it never says how they were found. Codings nest: the
scales, zeros and offsets of one are themselves arrays with a coding, down to `dense`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Layout = Literal["plain", "panel"]


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Base of all grammar nodes: immutable, strict, hashable."""

    def __reduce__(self) -> tuple[Any, ...]:
        # defaults are told by identity when a node becomes JSON: what comes out of a pickle must have the same objects,
        # or a scheme that another process made would be written with more words
        return msgspec.convert, (msgspec.to_builtins(self), type(self))


# -- groupings: which weights share one scale ------------------------------------------------------------------------


class Block(Frozen, frozen=True, tag="block", tag_field="group"):
    """Blocks of `rows` × `columns`; None means the whole side. One scale per block: shape (⌈N/rows⌉, ⌈K/columns⌉)."""

    rows: int | None = 1
    columns: int | None = None


class Flat(Frozen, frozen=True, tag="flat", tag_field="group"):
    """Runs of `size` over the flattened matrix, crossing rows (bitsandbytes, HQQ axis 1): shape (1, ⌈N·K/size⌉)."""

    size: int


class Comb(Frozen, frozen=True, tag="comb", tag_field="group"):
    """HQQ's axis 0: element i of the flattened matrix is in group i mod (N·K/size): shape (1, N·K/size)."""

    size: int


class Map(Frozen, frozen=True, tag="map", tag_field="group"):
    """An explicit map from column to group (GPTQ's g_idx), role `groups` uint32 (K,): scales (N, count)."""

    count: int


Grouping = Block | Flat | Comb | Map


# -- codings -----------------------------------------------------------------------------------------------------------


class Dense(Frozen, frozen=True, tag="dense", tag_field="coding"):
    """The numbers themselves. Roles: `values`, of `dtype`, in the tensor's shape."""

    dtype: str


class Affine(Frozen, frozen=True, tag="affine", tag_field="coding"):
    """`scale · (code − zero)`, or `scale · code + offset`; without scales the scale is 1 (packed integers).

    Roles: `codes`, `scales`, `zeros` or `offsets` (never both), `groups` for a Map.
    """

    bits: int
    signed: bool = False
    group: Grouping = Block(rows=None, columns=None)
    scales: Coding | None = None
    zeros: Coding | None = None
    offsets: Coding | None = None
    layout: Layout = "plain"


class Lookup(Frozen, frozen=True, tag="lookup", tag_field="coding"):
    """`scale · table[code] + offset`, the offset one number for the whole tensor.

    `table` names a row of `qformat.codings.tables`, or says where a stored one applies: "tensor" (role `table`,
    float32 (2^bits,)) or "row" (role `table`, float32 (N, 2^bits)).
    """

    bits: int
    table: str
    group: Grouping = Block(rows=None, columns=None)
    scales: Coding | None = None
    offset: Dense | None = None
    layout: Layout = "plain"


class Additive(Frozen, frozen=True, tag="additive", tag_field="coding"):
    """`scale · Σ_m codebooks[m, code_m]`: entries are (out_group, in_group) blocks (AQLM, arXiv 2401.06118 §3).

    Roles: `codes` (N/out_group, K/in_group, books), `codebooks` (books, 2^bits, out_group, in_group), `scales`.
    """

    books: int
    bits: int
    in_group: int
    out_group: int = 1
    codebooks: Dense = Dense(dtype="float16")
    group: Grouping = Block(rows=1, columns=None)
    scales: Coding | None = None
    layout: Layout = "plain"


class Trellis(Frozen, frozen=True, tag="trellis", tag_field="coding"):
    """`function(window of a bit stream)`: tiles of 16 × 16 weights, `vector` weights a step (QTIP, EXL3).

    Roles: `table` (2^table_bits, vector) for the functions that read one, `codes` (⌈N/16⌉, ⌈K/16⌉, 256 / vector).
    """

    bits: int
    function: Literal["1mad", "2mad", "3inst", "mcg", "mul1", "lut", "quantlut", "quantlut_sym"]
    vector: int = 1
    order: Literal["rows", "qtip", "exl3"] = "rows"
    table_bits: int | None = None
    table: Dense = Dense(dtype="float16")


class Lattice(Frozen, frozen=True, tag="lattice", tag_field="coding"):
    """`Σ_m factor_m · point_m[code_m]`: eight weights are a point of each named lattice (QuIP#, arXiv 2402.04396 §4).

    Roles: `factors` (lattices,), `codes.m` (N, K/8).
    """

    lattices: tuple[str, ...]


class Split(Frozen, frozen=True, tag="split", tag_field="coding"):
    """Runs of columns with codings of their own, `columns[p]` columns in `parts[p]` (EXL2: widths change inside).

    Roles: those of part p under the name `parts.p`.
    """

    columns: tuple[int, ...]
    parts: tuple[Coding, ...]


Coding = Dense | Affine | Lookup | Additive | Lattice | Trellis | Split
