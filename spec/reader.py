"""A reader of .qf files to be read: the whole format once more, in the order of the specification, for clarity.

It shares no code with the library, checks what it reads, and decodes every tensor to float32. It is slow.

    python spec/reader.py FILE        prints every tensor with its shape and the sum of its weights
"""

from __future__ import annotations

import json
import math
import struct
import sys
from itertools import pairwise
from pathlib import Path

import blake3
import numpy as np
import xxhash
import zstandard

CHUNK = 4 << 20


class InvalidError(Exception):
    """The file breaks the format."""


class UnsupportedError(Exception):
    """The file, or a tensor, needs a feature that this reader does not have."""


def need(condition, what):
    if not condition:
        raise InvalidError(what)


def up(offset, to):
    return -(-offset // to) * to


# -- qformat-v1.md: preamble, trailer, index ---------------------------------------------------------------------------

DTYPES = dict(
    enumerate(["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"], 1)
)
DTYPES |= dict(
    enumerate(["int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool", "complex64"], 16)
)
RECORD = struct.Struct("<6Q 8Q 4Q 8Q 32s 2d")
NONE = 2**64 - 1


class File:
    """A checked file: `records`, `schemes`, `metadata`; `extent(name)` gives logical bytes, `decode(name)` weights."""

    def __init__(self, path):
        self.path, self.raw, self.parts = Path(path), Path(path).read_bytes(), []
        raw = self.raw
        need(len(raw) >= 192, "shorter than preamble and trailer")
        magic, order, major = struct.unpack_from("<8sII", raw)
        need(magic == b"\x89QFM\r\n\x1a\n" and order == 0x01020304, "preamble")
        if major != 1:
            raise UnsupportedError("major version")
        need(not any(raw[16:64]), "preamble.reserved")
        tail = raw[-128:]
        magic, start, length, size, digest = struct.unpack_from("<8sQQQ32s", tail)
        need(magic == b"QFTRAIL\n" and not any(tail[64:120]), "trailer")
        need(struct.unpack("<Q", tail[120:])[0] == xxhash.xxh3_64_intdigest(tail[:120]), "trailer.checksum")
        need(size == len(raw) and start % 64 == 0 and start >= 64 and start + length + 128 == size, "trailer positions")
        index = raw[start : start + length]
        need(blake3.blake3(index).digest() == digest, "index digest")
        self._index(index, start)

    def _index(self, index, start):
        need(len(index) >= 128, "index too short")
        head = struct.unpack_from("<8sII4Q 2Q32sQ", index)
        magic, _, flags, records, chunks, names, text, before, before_length, before_digest, end = head
        need(magic == b"QFINDEX\n" and flags == 0 and not any(index[104:128]), "index header")
        place, tables = 128, []
        for length in (records * RECORD.size, chunks * 16, names, text):
            tables.append(index[place : place + length])
            end_of_table, place = place + length, up(place + length, 64)
            need(place <= len(index) and not any(index[end_of_table:place]), "index tables")
        need(place == len(index), "index length")
        need(end == start if before_length == 0 else before + before_length + 128 == start, "chain")
        while before_length:  # every superseded index is still there, whole, and its trailer behind it
            older, tail = self.raw[before : before + before_length], self.raw[before + before_length :][:128]
            need(blake3.blake3(older).digest() == before_digest, "superseded index")
            need(struct.unpack_from("<Q", tail, 120)[0] == xxhash.xxh3_64_intdigest(tail[:120]), "superseded trailer")
            before, before_length, before_digest = struct.unpack_from("<2Q32s", older, 48)
        self._document(tables[3])
        self.chunks = [struct.unpack_from("<IIQ", tables[1], 16 * i) for i in range(chunks)]
        self._records(tables[0], tables[2], records, end)

    def _document(self, text):
        def unique(pairs):
            need(len(dict(pairs)) == len(pairs), "duplicate key in JSON")
            return dict(pairs)

        try:
            document = json.loads(
                text.decode("utf-8"), object_pairs_hook=unique, parse_constant=lambda n: need(False, n)
            )
        except ValueError as error:
            raise InvalidError(f"JSON: {error}") from None
        need({"required", "optional", "schemes", "metadata"} <= set(document), "members of the document")
        if set(document["required"]) - {"shards"}:
            raise UnsupportedError("required feature")
        self.schemes, self.metadata = document["schemes"], document["metadata"]
        for row in document.get("shards", []):  # each shard is the very file that the set was made with
            part = File(self.path.parent / row["file"])
            need(len(part.raw) == row["size"] and part.digest == row["digest"], "shard")
            self.parts.append(part)

    @property
    def digest(self):
        return self.raw[-128 + 32 : -128 + 64].hex()

    def _records(self, table, pool, count, end):
        self.records, listed, position = {}, [], 0
        for i in range(count):
            (name_offset, name_length, kind, scheme, dtype, rank, *rest) = RECORD.unpack_from(table, RECORD.size * i)
            shape, parameters, numbers, (digest, error, _) = rest[:8], rest[8:12], rest[12:20], rest[20:]
            order, offset, length, stored, first, chunks, target, reserved = numbers
            need(name_offset == position and reserved == 0 and kind < 3 and dtype in DTYPES, f"record {i}")
            need(rank <= 8 and max(shape) <= 2**40 and not any(shape[rank:]), f"shape {i}")
            need(math.prod(max(side, 1) for side in shape) <= 2**48, f"shape {i}")
            position += name_length
            name = pool[name_offset:position].decode("ascii", "replace")
            need(name.isascii() and name.isprintable() and "\\" not in name, f"name {i}")
            need(scheme < len(self.schemes) or (kind == 2 and scheme == NONE), f"scheme {i}")
            keys = "name kind scheme dtype shape parameters order offset length stored first chunks target digest error"
            values = (name, kind, scheme, DTYPES[dtype], tuple(shape[:rank]), parameters, order, offset, length, stored)
            values += (first, chunks, target, digest, error)
            listed.append(dict(zip(keys.split(), values, strict=True)))
        need(position == len(pool), "names fill the pool")
        need(sorted(r["order"] for r in listed) == list(range(count)), "order")
        for kind in ((0, 1), (2,)):
            names = [r["name"] for r in listed if r["kind"] in kind]
            need(all(a < b for a, b in pairwise(names)), "names are sorted and unique")
        place, chunk = 64, 0
        for r in sorted((r for r in listed if r["kind"] != 1), key=lambda r: r["order"]):
            at = up(place, 4096 if r["length"] >= 65536 else 64)  # extents follow each other, zeros between
            need(r["offset"] == at and r["first"] == chunk and not any(self.raw[place:at]), f"extent of {r['name']}")
            need(r["chunks"] == -(-r["length"] // CHUNK), f"chunks of {r['name']}")
            place, chunk = at + r["stored"], chunk + r["chunks"]
        need(up(place, 64) == end and not any(self.raw[place:end]) and chunk == len(self.chunks), "end of the extents")
        for r in sorted(listed, key=lambda r: r["order"]):
            if r["kind"] == 1:
                of = listed[min(r["target"], count - 1)]
                need(r["target"] < count and of["kind"] == 0 and of["offset"] == r["offset"], "alias")
            self.records[r["name"], r["kind"] == 2] = r

    def names(self):
        """Tensors in file order."""
        own = [name for name, attached in self.records if not attached]
        return own + [name for part in self.parts for name in part.names()]

    def extent(self, name, attached=False):
        """The logical bytes of an extent, every hash checked."""
        r = self.records[name, attached]
        stored = self.raw[r["offset"] : r["offset"] + r["stored"]]
        need(blake3.blake3(stored).digest() == r["digest"], f"digest of {name}")
        pieces, place = [], 0
        for i in range(r["chunks"]):
            size, codec, check = self.chunks[r["first"] + i]
            piece, place = stored[place : place + size], place + size
            need(xxhash.xxh3_64_intdigest(piece) == check, f"chunk {i} of {name}")
            whole = min(CHUNK, r["length"] - i * CHUNK)
            need(codec < 4, f"codec of chunk {i} of {name}")
            if codec:  # 1 zstd, 2 and 3 zstd over the bytes of 2- and 4-byte items, plane by plane
                piece = zstandard.ZstdDecompressor().decompress(piece, max_output_size=whole)
                if codec > 1:
                    piece = np.frombuffer(piece, np.uint8).reshape(2 * codec - 2, -1).T.tobytes()
            need(len(piece) == whole, f"chunk {i} of {name}")
            pieces.append(piece)
        need(place == len(stored), f"chunks of {name}")
        return b"".join(pieces)

    def decode(self, name):
        """The weights in the source's shape, float32 (complex64 for complex)."""
        for part in self.parts:
            if (name, False) in part.records:
                return part.decode(name)
        r = self.records[name, False]
        return decode(self.schemes[r["scheme"]], r["shape"], r["parameters"], self.extent(name))

    def decode_all(self):
        """Every tensor, by name."""
        return {name: self.decode(name) for name in self.names()}


# -- codings/scheme.md -------------------------------------------------------------------------------------------------


def decode(scheme, shape, parameters, extent):
    """A tensor: the matrix of its scheme, in its shape."""
    known(scheme, "scheme", {"coding", "transposed", "transforms", "output_transforms", "corrections", "activations",
                             "method"})  # fmt: skip
    need(len(shape) > 1 or not scheme.get("transposed"), "transposed")
    full = (1,) * (2 - len(shape)) + tuple(shape)
    if scheme.get("transposed"):
        full = (*full[:-2], full[-1], full[-2])
    rows, width = math.prod(full[:-1]), full[-1]
    left, sides, roles = list(parameters), [width], {}
    befores, afters = scheme.get("transforms", []), scheme.get("output_transforms", [])
    for i, t in enumerate(befores):
        if t.get("transform") == "reassemble":
            channels, nonzeros = left.pop(0), left.pop(0)
            need(channels > 0 and channels * rows < 2**48 and nonzeros <= channels * sides[-1], "parameters")
            roles |= {f"transforms.{i}.{n}": role for n, role in csr(channels, nonzeros, "float32").items()}
            sides.append(channels)
        else:
            roles |= transform_roles(t, f"transforms.{i}", sides[-1])
            sides.append(sides[-1])
    for i, t in enumerate(afters):
        roles |= transform_roles(t, f"output_transforms.{i}", rows)
    for i, c in enumerate(scheme.get("corrections", [])):
        need(left, "more than four parameters")
        kind, dtype, n = c.get("correction"), c.get("dtype"), left.pop(0)
        if kind == "lowrank":
            need(n <= min(rows, width), "parameters")
            its = {"a": (dtype, (n, width)), "b": (dtype, (rows, n))}
        elif kind == "outliers":
            need(n <= rows * width, "parameters")
            its = csr(rows, n, dtype)
        elif kind == "outlier_columns":
            need(n <= width, "parameters")
            its = {"columns": ("uint32", (n,)), "values": (dtype, (rows, n))}
        else:
            raise UnsupportedError(f"correction {kind}")
        roles |= {f"corrections.{i}.{name}": role for name, role in its.items()}
    need(not any(left), "parameters left over")
    coded = (rows, sides[-1])
    roles |= coding_roles(scheme["coding"], coded)
    arrays = unpack(scheme["coding"], coded, roles, extent)
    matrix = decode_coding(scheme["coding"], coded, arrays)
    for i in reversed(range(len(befores))):
        matrix = times(matrix, befores[i], under(arrays, f"transforms.{i}"), sides[i])
    for i in reversed(range(len(afters))):
        matrix = times(matrix.T, afters[i], under(arrays, f"output_transforms.{i}"), rows).T
    for i, c in enumerate(scheme.get("corrections", [])):
        matrix = corrected(matrix, c["correction"], under(arrays, f"corrections.{i}"))
    matrix = matrix.reshape(full)
    return (np.swapaxes(matrix, -1, -2) if scheme.get("transposed") else matrix).reshape(shape)


def known(node, what, members):
    need(isinstance(node, dict) and set(node) <= members, f"members of {what}")


def under(arrays, prefix):
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(prefix + ".")}


# -- codings/transforms.md, codings/corrections.md ---------------------------------------------------------------------


def csr(rows, nonzeros, dtype):
    return {"row_pointers": ("uint32", (rows + 1,)), "columns": ("uint32", (nonzeros,)), "values": (dtype, (nonzeros,))}


def transform_roles(t, where, side):
    kind = t.get("transform")
    if kind == "hadamard":
        block = t["block"]
        need(block > 0 and block & (block - 1) == 0 and side % block == 0, "hadamard block")
        return {f"{where}.signs": ("int8", (side,))}
    if kind == "permute":
        return {f"{where}.indices": ("uint32", (side,))}
    if kind == "scale":
        return {f"{where}.scales": (t["dtype"], (side,))}
    raise UnsupportedError(f"transform {kind}")


def nonzeros_of(a, side):
    """(row, column, value) of a sparse matrix, checked."""
    pointers, columns = a["row_pointers"].astype(np.int64), a["columns"].astype(np.int64)
    need(pointers[0] == 0 and pointers[-1] == len(columns) and (np.diff(pointers) >= 0).all(), "row_pointers")
    for first, last in pairwise(pointers):
        need((np.diff(columns[first:last]) > 0).all() and (columns[first:last] < side).all(), "columns")
    values = numbers(a["values"])
    need(np.isfinite(values).all(), "values")
    return list(zip(np.repeat(np.arange(len(pointers) - 1), np.diff(pointers)), columns, values, strict=True))


def times(matrix, t, a, side):
    """matrix · T, float32."""
    kind = t["transform"]
    if kind == "permute":
        need(sorted(a["indices"].tolist()) == list(range(side)), "indices")
        return matrix[:, np.argsort(a["indices"])]
    if kind == "scale":
        need(np.isfinite(numbers(a["scales"])).all(), "scales")
        return matrix * numbers(a["scales"])
    if kind == "reassemble":
        out = np.zeros((len(matrix), side), np.float32)
        for k, c, v in nonzeros_of(a, side):
            out[:, c] += matrix[:, k] * v
        return out
    need((np.abs(a["signs"].astype(int)) == 1).all(), "signs")
    out, distance = matrix.copy(), 1
    while distance < t["block"]:
        partner = np.arange(side) ^ distance
        sign = np.where(np.arange(side) & distance, -1, 1).astype(np.float32)
        out, distance = out[:, partner] + sign * out, 2 * distance
    return out * np.float32(1 / math.sqrt(t["block"])) * a["signs"].astype(np.float32)


def corrected(matrix, kind, a):
    matrix = np.array(matrix)
    if kind == "lowrank":
        need(np.isfinite(numbers(a["a"])).all() and np.isfinite(numbers(a["b"])).all(), "a, b")
        total = np.zeros_like(matrix)
        for r in range(len(a["a"])):
            total += numbers(a["b"])[:, r : r + 1] * numbers(a["a"])[r]
        return matrix + total
    if kind == "outliers":
        for i, c, v in nonzeros_of(a, matrix.shape[1]):
            matrix[i, c] += v
        return matrix
    columns = a["columns"].astype(int)
    need((np.diff(columns) > 0).all() and (columns < matrix.shape[1]).all(), "columns")
    matrix[:, columns] += numbers(a["values"])
    return matrix


# -- codings/groups.md -------------------------------------------------------------------------------------------------


def group_shape(g, shape):
    rows, columns = shape
    kind = g.get("group")
    if kind == "block":
        high, wide = sides(g, shape)
        need(high > 0 and wide > 0, "group size")
        return -(-rows // high), -(-columns // wide)
    if kind == "map":
        return rows, g["count"]
    if kind not in ("flat", "comb"):
        raise UnsupportedError(f"group {kind}")
    need(g["size"] > 0 and (kind == "flat" or rows * columns % g["size"] == 0), "group size")
    return 1, -(-rows * columns // g["size"])


def sides(g, shape):
    high, wide = g.get("rows", 1), g.get("columns")
    return max(shape[0], 1) if high is None else high, max(shape[1], 1) if wide is None else wide


def spread(g, shape, values, groups):
    """Numbers per group as numbers per weight."""
    r, c = np.indices(shape)
    flat = r * shape[1] + c
    if g["group"] == "block":
        high, wide = sides(g, shape)
        return values[r // high, c // wide]
    if g["group"] == "flat":
        return values[0, flat // g["size"]]
    if g["group"] == "comb":
        return values[0, flat % max(values.shape[1], 1)]
    need((groups < g["count"]).all(), "groups")
    return values[r, groups[c]]


# -- codings/dense.md, affine.md, lookup.md, additive.md ---------------------------------------------------------------

CODED = ("affine", "lookup", "additive")
EVERYWHERE = {"group": "block", "rows": None}


def children(c):
    """Nested codings: (name, coding, grouping)."""
    group = c.get("group", {"group": "block", "rows": 1} if c["coding"] == "additive" else EVERYWHERE)
    found = [(name, c[name], group) for name in ("scales", "zeros", "offsets") if c.get(name) is not None]
    return found + ([("offset", c["offset"], EVERYWHERE)] if c.get("offset") is not None else [])


def coding_roles(c, shape, depth=1):
    """name → (dtype, shape) or (bits, shape, signed), in the order of the extent."""
    need(depth <= 4, "nesting")
    kind, rows, columns = c.get("coding"), *shape
    if kind == "dense":
        return {"values": (c["dtype"], shape)}
    roles, codes, bits = {}, None, c.get("bits")
    need((type(bits) is int and 1 <= bits <= (16 if kind == "additive" else 8)) or kind not in CODED, "bits")
    if c.get("layout", "plain") not in ("plain", "panel"):
        raise UnsupportedError("layout")
    if kind == "affine":
        known(c, kind, {"coding", "bits", "signed", "group", "scales", "zeros", "offsets", "layout"})
        need(not (c.get("zeros") and c.get("offsets")), "zeros and offsets")
        codes = (c["bits"], shape, c.get("signed", False))
    elif kind == "lookup":
        known(c, kind, {"coding", "bits", "table", "group", "scales", "offset", "layout"})
        if c["table"] in ("tensor", "row"):
            roles["table"] = ("float32", (2 ** c["bits"],) if c["table"] == "tensor" else (rows, 2 ** c["bits"]))
        else:
            need(len(table(c["table"])) == 2 ** c["bits"], "table")
        codes = (c["bits"], shape, False)
    elif kind == "additive":
        high, wide = c.get("out_group", 1), c["in_group"]
        need(columns % wide == 0, "in_group")
        dtype = c.get("codebooks", {"dtype": "float16"})["dtype"]
        roles["codebooks"] = (dtype, (c["books"], 2 ** c["bits"], high, wide))
        codes = (c["bits"], (-(-rows // high), columns // wide, c["books"]), False)
    else:
        raise UnsupportedError(f"coding {kind}")
    if c.get("group", {}).get("group") == "map":
        roles["groups"] = ("uint32", (columns,))
    for name, child, group in children(c):
        for role, what in coding_roles(child, group_shape(group, shape), depth + 1).items():
            roles[name if role == "values" else f"{name}.{role}"] = what
    return {**roles, "codes": codes}


def decode_coding(c, shape, arrays):
    """The definition: a float32 matrix."""
    if c["coding"] == "dense":
        return numbers(arrays["values"])
    per_weight = {}
    for name, child, group in children(c):
        own = {"values": arrays[name]} if name in arrays else under(arrays, name)
        values = decode_coding(child, group_shape(group, shape), own)
        need(np.isfinite(values).all(), name)
        per_weight[name] = spread(group, shape, values, arrays.get("groups"))
    codes = arrays["codes"]
    with np.errstate(over="ignore", invalid="ignore"):
        if c["coding"] == "affine":
            weight = codes.astype(np.float32)
            weight = weight - per_weight["zeros"] if "zeros" in per_weight else weight
        elif c["coding"] == "lookup":
            stored = arrays.get("table")
            if stored is None:
                weight = table(c["table"])[codes]
            else:
                need(np.isfinite(stored).all(), "table")
                weight = stored[np.indices(shape)[0], codes] if c["table"] == "row" else stored[codes]
        else:
            books = numbers(arrays["codebooks"])
            need(np.isfinite(books).all(), "codebooks")
            blocks = books[0][codes[..., 0]]
            for m in range(1, c["books"]):
                blocks = blocks + books[m][codes[..., m]]
            tall = blocks.shape[0] * blocks.shape[2]
            weight = blocks.swapaxes(1, 2).reshape(tall, shape[1])[: shape[0]]
        weight = per_weight["scales"] * weight if "scales" in per_weight else weight
        for name in ("offsets", "offset"):
            weight = weight + per_weight[name] if name in per_weight else weight
    return weight


def minifloat(exponent, mantissa, bias, nan=(), inf=()):
    values = []
    for code in range(2 ** (1 + exponent + mantissa)):
        sign, power = code >> (exponent + mantissa), code >> mantissa & (2**exponent - 1)
        fraction = (code & (2**mantissa - 1)) / 2**mantissa
        value = math.ldexp(fraction, 1 - bias) if power == 0 else math.ldexp(1 + fraction, power - bias)
        value = math.nan if code & 0x7F in nan else math.inf if code & 0x7F in inf else value
        values.append(-value if sign else value)
    return np.array(values, np.float32)


def table(name):
    """The named tables of lookup.md."""
    if name == "nf4":
        return np.array([-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                         -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725,
                         0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                         0.7229568362236023, 1], np.float32)  # fmt: skip
    if name == "fp4":
        half = [np.float32(v) / np.float32(12) for v in (0, 0.0625, 8, 12, 4, 6, 2, 3)]
        return np.array(half + [np.float32(0)] + [-v for v in half[1:]], np.float32)
    if name == "iq4_nl":
        return np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
    if name == "e8m0":
        return np.array([2.0 ** (code - 127) for code in range(255)] + [math.nan], np.float32)
    if name == "dynamic8":
        values, start = [0.0, 1.0], np.float32(0.1)
        for i in range(7):
            n, step = 2**i, float((np.float32(1) - start) / np.float32(2**i))
            ends = [
                np.float32(float(start) + k * step if k < (n + 1) // 2 else 1 - (n - k) * step) for k in range(n + 1)
            ]
            for a, b in pairwise(ends):
                value = float(np.float32(10.0 ** (i - 6)) * ((a + b) / np.float32(2)))
                values += [value, -value]
        return np.array(sorted(values), np.float32)
    formats = {"e2m1": (2, 1, 1), "e2m3": (2, 3, 1), "e3m2": (3, 2, 3), "e4m3": (4, 3, 7, (0x7F,)),
               "e5m2": (5, 2, 15, (0x7D, 0x7E, 0x7F), (0x7C,))}  # fmt: skip
    if name not in formats:
        raise UnsupportedError(f"table {name}")
    return minifloat(*formats[name])


SMALL = {"float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2", "float8_e8m0fnu": "e8m0"}


def numbers(stored):
    """Stored numbers, whatever their dtype, as float32."""
    if stored.dtype.names:  # what numpy lacks is kept as its bits, in a field named after the dtype
        (name,) = stored.dtype.names
        bits = stored[name]
        return table(SMALL[name])[bits] if name in SMALL else (bits.astype(np.uint32) << 16).view(np.float32)
    if stored.dtype.kind == "c":
        return stored
    with np.errstate(over="ignore"):
        return stored.astype(np.float32)


# -- codings/plain.md, codings/panel.md --------------------------------------------------------------------------------


PLANES = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}


def dtype_of(name):
    if name == "bfloat16":
        return np.dtype([(name, "<u2")])
    if name in SMALL:
        return np.dtype([(name, "u1")])
    if name not in DTYPES.values():
        raise UnsupportedError(f"dtype {name}")
    return np.dtype(name)


def size_of(role):
    what, shape = role[0], role[1]
    return (math.prod(shape) * what + 7) // 8 if isinstance(what, int) else math.prod(shape) * dtype_of(what).itemsize


def stored_array(role, raw):
    """The array of a role from its own bytes."""
    what, shape = role[0], role[1]
    if not isinstance(what, int):
        return np.frombuffer(raw, dtype_of(what)).reshape(shape)
    stream, count = int.from_bytes(raw, "little"), math.prod(shape)
    need(stream >> (count * what) == 0, "bits after the last code")
    codes = [stream >> (i * what) & (2**what - 1) for i in range(count)]
    return np.array(codes, np.int64).reshape(shape) - (2 ** (what - 1) if role[2] else 0)


def unpack(c, shape, roles, extent):
    """Every role's array from the bytes of an extent."""
    panel = c.get("layout") == "panel"
    names = [n for name in ("scales", "zeros", "offsets") for n in (name, f"{name}.codes")] if panel else []
    beside = [name for name in names if name in roles and c["coding"] != "additive"]
    place, arrays = 0, {}
    for name, role in roles.items():
        if not panel or (name not in beside and name != "codes"):
            at, size = up(place, 64), size_of(role)
            need(at + size <= len(extent) and not any(extent[place:at]), f"place of {name}")
            arrays[name], place = stored_array(role, extent[at : at + size]), at + size
    if panel:
        at = up(place, 64)
        need(not any(extent[place:at]), "padding before the panels")
        read = untile if c["coding"] == "additive" else unpanel
        place = at + read(c, shape, {name: roles[name] for name in beside}, roles["codes"], extent[at:], arrays)
    need(place == len(extent), "length of the extent")
    return arrays


def unpanel(c, shape, beside, code, raw, arrays):
    """Read the panels bit by bit into `arrays`; gives their length. Whatever is not read must be zero."""
    rows, columns = shape
    _, g = sides(c["group"], shape)
    group = c["group"]
    need(group["group"] == "block" and group.get("rows", 1) == 1, "panel groups")
    need(group.get("columns") is None or g % 16 == 0, "panel groups")
    need(c.get("scales") is not None, "panel scales")
    stream, place, used = int.from_bytes(raw, "little"), 0, 0
    out = np.zeros(shape, np.int64)
    found = {name: [[b"" for _ in range(-(-columns // g))] for _ in range(rows)] for name in beside}
    bits = c["bits"]
    planes = PLANES.get(bits, (bits,))

    def take(bit, width):
        nonlocal used
        value = stream >> bit & ((1 << width) - 1)
        used |= value << bit
        return value

    for top in range(0, rows if columns else 0, 16):
        for number in range(-(-columns // g)):
            left, right = number * g, min((number + 1) * g, columns)
            for name, role in beside.items():
                width = role[0] if isinstance(role[0], int) else 8 * dtype_of(role[0]).itemsize
                for r in range(min(16, rows - top)):
                    found[name][top + r][number] = take(8 * place + r * width, width)
                place += 16 * width // 8
            for start in range(left, right, 64):
                stop, low = min(start + 64, right), 0
                for width in planes:
                    inputs = 32 // width
                    for i in range(stop - start):
                        dword, j, k = i // inputs, i % inputs // 4, i % 4
                        for r in range(min(16, rows - top)):
                            bit = 8 * (place + 64 * dword + 4 * r + k) + j * width
                            out[top + r, start + i] |= take(bit, width) << low
                    place, low = place + 64 * -(-(stop - start) // inputs), low + width
    need(place <= len(raw) and used == stream & ((1 << 8 * place) - 1), "padding of a panel")
    arrays["codes"] = out - (2 ** (bits - 1) if code[2] else 0)
    for name, role in beside.items():
        values = [value for row in found[name] for value in row]
        if isinstance(role[0], int):
            arrays[name] = np.array(values, np.int64).reshape(role[1]) - (2 ** (role[0] - 1) if role[2] else 0)
        else:
            size = dtype_of(role[0]).itemsize
            arrays[name] = stored_array(role, b"".join(value.to_bytes(size, "little") for value in values))
    return place


def untile(c, shape, beside, code, raw, arrays):
    """Read the panels of additive codes into `arrays`; gives their length."""
    bits, (down, across, books), _ = code
    widths = [8] * (bits > 8) + list(PLANES.get(bits - 8 if bits > 8 else bits, (bits - 8 if bits > 8 else bits,)))
    codes, place = np.zeros((up(down, 64), across, books), np.int64), 0
    for top in range(0, down if across else 0, 64):
        for i, m in np.ndindex(across, books):
            low = 0
            for w in widths:
                plane = np.frombuffer(raw[place : place + 8 * w], np.uint8).astype(np.int64)
                need(len(plane) == 8 * w, "length of the panels")
                for j in range(8 // w):
                    codes[top + j * 8 * w :, i, m][: 8 * w] |= (plane >> j * w & (2**w - 1)) << low
                place, low = place + 8 * w, low + w
    need(not codes[down:].any(), "padding of a panel")
    arrays["codes"] = codes[:down]
    return place


if __name__ == "__main__":
    for each, weights in File(sys.argv[1]).decode_all().items():
        print(f"{each}  {weights.shape}  sum {weights.sum(dtype=np.float64):.6g}")
