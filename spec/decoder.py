"""What the bytes of a tensor mean, as codings/ says it: `decode` gives its weights, every rule of the grammar checked.

It knows nothing of files; reader.py finds the bytes.
"""

import math
from itertools import product

import numpy as np


class InvalidError(Exception):
    """The file breaks the format."""


class UnsupportedError(Exception):
    """The file, or a tensor, needs a feature that this reader does not have."""


def need(condition, what, error=InvalidError):
    if not condition:
        raise error(what)


def up(offset, to):
    return -(-offset // to) * to


# -- qformat-v1.md, 6: storage types -----------------------------------------------------------------------------------

FLOATS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"]
OTHERS = ["int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool", "complex64"]
DTYPES = dict(enumerate(FLOATS, 1)) | dict(enumerate(OTHERS, 16))


# -- codings/plain.md --------------------------------------------------------------------------------------------------

SMALL = {"float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2", "float8_e8m0fnu": "e8m0"}


def storage(dtype):
    """The numpy type that the numbers of a storage type are read as."""
    need(dtype in DTYPES.values(), f"dtype {dtype}", UnsupportedError)
    return np.dtype("<u2" if dtype == "bfloat16" else "u1" if dtype in SMALL else dtype)


def numbers(raw, dtype, shape):
    """Stored numbers; those of a type that numpy lacks as float32."""
    found = np.frombuffer(raw, storage(dtype)).reshape(shape)
    if dtype == "bfloat16":
        return (found.astype(np.uint32) << 16).view(np.float32)
    return named_table(SMALL[dtype])[found] if dtype in SMALL else found


def floats(values):
    with np.errstate(over="ignore"):
        return values if values.dtype.kind == "c" else values.astype(np.float32)


def finite(values, what):
    need(np.isfinite(floats(values)).all(), what)
    return floats(values)


def integers(raw, bits, shape):
    """Integers of so many bits from a stream of bits, least significant first."""
    stream = np.unpackbits(np.frombuffer(raw, np.uint8), count=math.prod(shape) * bits, bitorder="little")
    return stream.reshape(*shape, bits) @ (np.uint64(1) << np.arange(bits, dtype=np.uint64))


class Extent:
    """The roles of an extent in their order, each at the next multiple of 64; panels are taken from its end."""

    def __init__(self, raw):
        self.raw, self.place, self.end = raw, 0, len(raw)

    def take(self, size):
        start = up(self.place, 64)
        need(start + size <= self.end and not any(self.raw[self.place : start]), "length, or padding, of an extent")
        self.place = start + size
        return self.raw[start : self.place]

    def array(self, dtype, *shape):
        return numbers(self.take(math.prod(shape) * storage(dtype).itemsize), dtype, shape)

    def codes(self, bits, shape):
        size = math.prod(shape) * bits
        raw = self.take(up(size, 8) // 8)
        need(int.from_bytes(raw, "little") >> size == 0, "bits after the last code")
        return integers(raw, bits, shape)

    def panels(self, *shape):
        need(math.prod(shape) <= self.end, "length of the panels")
        self.end -= math.prod(shape)
        return np.frombuffer(self.raw[self.end :], np.uint8).reshape(shape)

    def finish(self):
        start = self.place if self.end == len(self.raw) else up(self.place, 64)
        need(start == self.end and not any(self.raw[self.place : start]), "length of an extent")


# -- codings/scheme.md -------------------------------------------------------------------------------------------------

REQUIRED, ALL = object(), {"group": "block", "rows": None}
SCHEME = {"coding": REQUIRED, "transforms": (), "output_transforms": (), "corrections": ()}
SCHEME |= {"transposed": False, "activations": None, "method": None}
SIZE, DTYPE, FLOAT16 = {"size": REQUIRED}, {"dtype": REQUIRED}, {"coding": "dense", "dtype": "float16"}
BITS = {"bits": REQUIRED}
CODED = BITS | {"group": ALL, "scales": None, "layout": "plain"}
BOOKS = {"group": {"group": "block"}, "books": REQUIRED, "in_group": REQUIRED, "out_group": 1, "codebooks": FLOAT16}
HADAMARD, ROTATE = {"block": REQUIRED, "base": 1}, DTYPE | {"rounds": REQUIRED}
TRELLIS = BITS | {"function": REQUIRED, "vector": 1, "order": "rows", "table_bits": None, "table": FLOAT16}
NODES = {  # members and their defaults
    "transform": {"permute": {}, "scale": DTYPE, "hadamard": HADAMARD, "rotate": ROTATE, "reassemble": {}},
    "correction": dict.fromkeys(("lowrank", "outliers", "outlier_columns"), DTYPE),
    "group": {"block": {"rows": 1, "columns": None}, "map": {"count": REQUIRED}, "flat": SIZE, "comb": SIZE},
    "coding": {
        "dense": DTYPE,
        "affine": CODED | {"signed": False, "zeros": None, "offsets": None},
        "lookup": CODED | {"table": REQUIRED, "offset": None},
        "additive": CODED | BOOKS,
        "lattice": {"lattices": REQUIRED},
        "trellis": TRELLIS,
        "split": {"columns": REQUIRED, "parts": REQUIRED},
    },
}
COUNTS = ("bits", "block", "count", "size", "books", "in_group", "out_group", "vector", "rounds", "base")


def members(node, defaults):
    """A node with its defaults: nothing unknown, nothing missing, counts above zero."""
    need(isinstance(node, dict) and set(node) <= set(defaults), f"members of {node}")
    whole = defaults | node
    need(REQUIRED not in whole.values(), f"a member is missing from {node}")
    need(all(type(whole[name]) is int and whole[name] > 0 for name in COUNTS if name in whole), f"counts of {node}")
    return whole


def node_of(node, tag):
    need(isinstance(node, dict) and tag in node, f"{tag} of {node}")
    need(node[tag] in NODES[tag], f"{tag} {node[tag]}", UnsupportedError)
    return members(node, {tag: node[tag]} | NODES[tag][node[tag]])


def decode(scheme, shape, parameters, raw):
    """The weights of a tensor in its shape, from the logical bytes of its extent."""
    scheme, extent, left = members(scheme, SCHEME), Extent(raw), list(parameters)
    need(len(shape) > 1 or not scheme["transposed"], "transposed")
    full = [1] * (2 - len(shape)) + list(shape)
    if scheme["transposed"]:
        full[-2:] = full[:-3:-1]
    rows, width = math.prod(full[:-1]), full[-1]
    inputs, side = [], width
    for t in scheme["transforms"]:
        step, side = transform(node_of(t, "transform"), side, extent, left, rows)
        inputs.append(step)
    outputs = [transform(node_of(t, "transform"), rows, extent, [], rows)[0] for t in scheme["output_transforms"]]
    added = [correction(node_of(c, "correction"), (rows, width), extent, left) for c in scheme["corrections"]]
    need(not any(left), "parameters left over")
    matrix = coding(scheme["coding"], (rows, side), extent)
    extent.finish()
    for step in reversed(inputs):
        matrix = step(matrix)
    for step in reversed(outputs):
        matrix = step(matrix.T).T
    for more in added:
        matrix = matrix + more
    matrix = matrix.reshape(full)
    return (np.swapaxes(matrix, -1, -2) if scheme["transposed"] else matrix).reshape(shape)


def parameter(left, most):
    """The next of the record's parameters."""
    need(left and left[0] <= most, "parameters")
    return left.pop(0)


# -- codings/transforms.md, codings/corrections.md ---------------------------------------------------------------------


def transform(t, side, extent, left, rows):
    """What makes M · T of a matrix M, and the number of channels after T."""
    if t["transform"] == "permute":
        indices = extent.array("uint32", side)
        need(np.array_equal(np.sort(indices), np.arange(side)), "indices")
        return lambda matrix: matrix[:, np.argsort(indices)], side
    if t["transform"] == "scale":
        scales = finite(extent.array(t["dtype"], side), "scales")
        return lambda matrix: matrix * scales, side
    if t["transform"] == "hadamard":
        block, n, signs = t["block"], t["base"], extent.array("int8", side)
        rest = block // n
        need(n <= 512 and block == n * rest and rest & (rest - 1) == 0 and side % block == 0, "hadamard block")
        base = extent.array("int8", n, n) if n > 1 else np.ones((1, 1), np.int8)
        need(all((np.abs(array.astype(int)) == 1).all() for array in (signs, base)), "signs, or base")
        need(np.array_equal(base.astype(int) @ base.T, n * np.eye(n)), "base")

        def rotate(matrix):
            blocks = butterflies(matrix, rest).reshape(len(matrix), side // block, n, rest)
            blended = sum((blocks[:, :, k : k + 1] * floats(base[k, :, None]) for k in range(n)), np.float32(0))
            return blended.reshape(matrix.shape) * np.float32(1 / math.sqrt(block)) * floats(signs)

        return rotate, side
    if t["transform"] == "rotate":
        need(side % 2 == 0 and t["rounds"] <= 256, "rounds, or side")
        pairs = extent.array("uint32", t["rounds"], side // 2, 2)
        need((np.sort(pairs.reshape(t["rounds"], side), axis=1) == np.arange(side)).all(), "pairs")
        angles = finite(extent.array(t["dtype"], t["rounds"], side // 2), "angles").astype(np.float64)
        return lambda matrix: rotated(matrix.copy(), pairs, angles), side
    channels = parameter(left, 2**48 // max(rows, 1))
    row, where, values = sparse(channels, side, parameter(left, channels * side), "float32", extent)

    def reassemble(matrix):
        out = np.zeros((side, rows), np.float32)
        np.add.at(out, where, matrix.T[row] * values[:, None])  # one after the other
        return out.T

    return reassemble, channels


def rotated(matrix, pairs, angles):
    for (i, j), angle in zip(pairs[::-1].swapaxes(1, 2), angles[::-1], strict=True):
        c, s = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        matrix[:, i], matrix[:, j] = matrix[:, i] * c - matrix[:, j] * s, matrix[:, j] * c + matrix[:, i] * s
    return matrix


def butterflies(matrix, block):
    for level in range(block.bit_length() - 1):
        pairs = matrix.reshape(len(matrix), -1, 2, 2**level)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        matrix = np.stack([a + b, a - b], axis=2).reshape(matrix.shape)
    return matrix


def sparse(rows, columns, count, dtype, extent):
    """Rows, columns and values of the non-zeros of a sparse matrix."""
    pointers, where = (extent.array("uint32", n).astype(np.int64) for n in (rows + 1, count))
    values = finite(extent.array(dtype, count), "values")
    need(pointers[0] == 0 and pointers[-1] == count and (np.diff(pointers) >= 0).all(), "row_pointers")
    row = np.repeat(np.arange(rows), np.diff(pointers))
    need((where < columns).all() and (np.diff(row * columns + where) > 0).all(), "columns")
    return row, where, values


def correction(c, shape, extent, left):
    """The matrix that a correction adds."""
    (rows, columns), added = shape, np.zeros(shape, np.float32)
    if c["correction"] == "lowrank":
        rank = parameter(left, min(shape))
        a = finite(extent.array(c["dtype"], rank, columns), "a")
        b = finite(extent.array(c["dtype"], rows, rank), "b")
        return sum((b[:, r : r + 1] * a[r] for r in range(rank)), added)
    if c["correction"] == "outliers":
        row, where, values = sparse(rows, columns, parameter(left, rows * columns), c["dtype"], extent)
    else:
        row, count = np.arange(rows)[:, None], parameter(left, columns)
        where, values = extent.array("uint32", count), finite(extent.array(c["dtype"], rows, count), "values")
        need((np.diff(where.astype(int)) > 0).all() and (where < columns).all(), "columns")

    added[row, where] = values
    return added


# -- codings/groups.md -------------------------------------------------------------------------------------------------


def grouping(g, shape, extent):
    """The shape of the numbers per group, and what spreads them to the weights."""
    rows, columns = shape
    if g["group"] == "block":
        high = max(rows, 1) if g["rows"] is None else g["rows"]
        wide = max(columns, 1) if g["columns"] is None else g["columns"]
        need(high > 0 and wide > 0, "group size")
        grid = -(-rows // high), -(-columns // wide)
        return grid, lambda values: values[np.arange(rows)[:, None] // high, np.arange(columns) // wide]
    if g["group"] == "map":
        groups = extent.array("uint32", columns)
        need((groups < g["count"]).all(), "groups")
        return (rows, g["count"]), lambda values: values[:, groups]
    grid = (1, -(-rows * columns // g["size"]))
    if g["group"] == "flat":
        return grid, lambda values: values[0, np.arange(rows * columns) // g["size"]].reshape(shape)
    need(rows * columns % g["size"] == 0, "size of a comb")
    return grid, lambda values: np.resize(values, shape)


# -- codings/dense.md, split.md, affine.md, lookup.md, additive.md -----------------------------------------------------


def coding(c, shape, extent, depth=1, beside=None):
    """The definition: a float32 matrix. `beside` are its numbers, as integers, if they stood beside codes in panels."""
    need(depth <= 4, "nesting")
    c = node_of(c, "coding")
    need(c.get("bits", 1) <= (16 if c["coding"] == "additive" else 8), "bits")
    match c["coding"]:
        case "dense" if beside is None:
            return floats(extent.array(c["dtype"], *shape))
        case "dense":
            raw = beside.astype(f"<u{storage(c['dtype']).itemsize}").tobytes()
            return floats(numbers(raw, c["dtype"], shape))
        case "split":
            need(depth == 1 and 0 < len(c["parts"]) == len(c["columns"]) <= 64, "parts of a split")
            need(min(c["columns"]) > 0 and sum(c["columns"]) == shape[1], "columns of a split")
            parts = zip(c["parts"], c["columns"], strict=True)
            return np.hstack([coding(part, (shape[0], wide), extent, 2) for part, wide in parts])
        case "trellis":
            return trellis(c, shape, extent)
        case "lattice":
            return lattice(c["lattices"], shape, extent)
    return scaled(c, shape, extent, depth, beside)


def scaled(c, shape, extent, depth, beside):
    """What the codes of affine, lookup and additive stand for, in the scales and offsets of their groups."""
    kind, bits, codes_shape, unpack = c["coding"], c["bits"], shape, panels
    need(c["layout"] in ("plain", "panel"), "layout", UnsupportedError)
    if kind == "additive":
        need(shape[1] % c["in_group"] == 0, "in_group")
        codes_shape, unpack = (-(-shape[0] // c["out_group"]), shape[1] // c["in_group"], c["books"]), book_panels
        books = (c["books"], 2**bits, c["out_group"], c["in_group"])
        entries = finite(extent.array(node_of(c["codebooks"], "coding")["dtype"], *books), "codebooks")
    elif kind == "lookup" and c["table"] in ("tensor", "row"):
        tables = 1 if c["table"] == "tensor" else shape[0]
        entries = finite(extent.array("float32", tables, 2**bits), "table")
    elif kind == "lookup":
        entries = named_table(c["table"])[None]
        need(entries.size == 2**bits, "table")
    grid, spread = grouping(node_of(c["group"], "group"), shape, extent)
    children = {name: c[name] for name in ("scales", "zeros", "offsets") if c.get(name)}
    need(not {"zeros", "offsets"} <= set(children), "zeros and offsets")
    need(c["layout"] == "plain" or depth == 1, "panels inside a coding")
    found = unpack(c, children, codes_shape, extent) if c["layout"] == "panel" else {"codes": beside}
    number = {"scales": 1, "zeros": 0, "offsets": 0}
    for name, child in children.items():
        need(child["coding"] in ("dense", "affine", "lookup"), f"coding of {name}")
        number[name] = spread(finite(coding(child, grid, extent, depth + 1, found.get(name)), name))
    if c.get("offset"):
        number["offsets"] = finite(coding(c["offset"], (1, 1), extent, depth + 1), "offset")
    codes = extent.codes(bits, codes_shape) if found["codes"] is None else found["codes"]
    with np.errstate(over="ignore", invalid="ignore"):
        if kind == "affine":
            weight = floats(codes) - (2 ** (bits - 1) if c["signed"] else 0) - number["zeros"]
        elif kind == "lookup":
            weight = entries[np.arange(shape[0])[:, None] % len(entries), codes]
        else:  # entries are added in the order of the books; (row of blocks, block, row in it, column in it)
            blocks = sum((entries[m][codes[..., m]] for m in range(c["books"])), np.float32(0))
            weight = blocks.swapaxes(1, 2).reshape(-1, shape[1])[: shape[0]]
        return number["scales"] * weight + number["offsets"]


# -- codings/trellis.md ------------------------------------------------------------------------------------------------

ORDERS = {"rows": [128, 64, 32, 16, 8, 4, 2, 1], "qtip": [64, 32, 16, 4, 2, 8, 128, 1]}
ORDERS["exl3"] = [64, 32, 16, 4, 2, 128, 8, 1]
COMPUTED = {"1mad": (34038481, 76625530), "2mad": (264435761, 1013904223), "3inst": (89226354, 64248484)}
COMPUTED |= {"mcg": (0xCBAC1FED, 0), "mul1": (0x83DCD12D, 0)}
STORED = {"lut": 16, "quantlut": 16, "quantlut_sym": 15}


def trellis(c, shape, extent):
    """Tiles of 16 × 16 weights, each a cycle of codes; the state of a step is its code, 2^w times the one before, …"""
    bits, vector, name, table_bits = c["bits"], c["vector"], c["function"], c["table_bits"]
    need(name in COMPUTED | STORED and c["order"] in ORDERS, "function or order", UnsupportedError)
    if name in STORED:
        need(vector <= 2 and table_bits and table_bits in range(1, STORED[name] + 1), "vector or table_bits")
        table = finite(extent.array(node_of(c["table"], "coding")["dtype"], 2**table_bits, vector), "table")
    else:
        need(vector == 1 and table_bits is None, "vector or table_bits")
    w, down, across = bits * vector, -(-shape[0] // 16), -(-shape[1] // 16)
    codes = extent.codes(w, (down, across, 256 // vector))
    states = sum(np.roll(codes, k, axis=-1) << np.uint64(w * k) for k in range(up(16, w) // w)) % 2**16
    weights = looked_up(name, states, table, table_bits) if name in STORED else computed(name, states)
    places = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) @ np.array(ORDERS[c["order"]])
    tiles = np.zeros((down, across, 256), np.float32)
    tiles[..., places] = weights.reshape(tiles.shape)
    return tiles.reshape(down, across, 16, 16).swapaxes(1, 2).reshape(16 * down, 16 * across)[: shape[0], : shape[1]]


def computed(name, states):
    factor, increment = COMPUTED[name]
    x = (states * factor + increment) % 2**32
    if name in ("3inst", "mcg"):
        halves = ((x & 0x8FFF8FFF) ^ 0x3B603B60).astype("<u4")[..., None].view("<f2")
        return (halves[..., 0] + halves[..., 1]).astype(np.float32)
    if name == "2mad":
        x += x * 1664525 >> np.uint64(32)
    total = x.astype("<u4")[..., None].view(np.uint8).sum(axis=-1, dtype=np.float64)
    if name == "mul1":
        a, b = np.array([0x1EEE, 0xC931], "<u2").view("<f2").astype(np.float64)
        return (a * (1024 + total) + b).astype(np.float16).astype(np.float32)
    return (total - 510).astype(np.float32) / np.float32(147.800537109375)


def looked_up(name, states, table, table_bits):
    hashed = states * (states + 1)
    if name != "lut":
        states = hashed >> np.uint64(STORED[name] - table_bits)
    weights = table[states % 2**table_bits]
    if name == "quantlut_sym":
        weights[..., 0] *= 1 - 2.0 * (hashed >> np.uint64(15) & 1)
    return weights


# -- codings/lattice.md ------------------------------------------------------------------------------------------------

NORM_12 = "8f4f2f1feceae6e9e5e3dcdad6d9d5d3bcbab6b9b5737c7a76797537ce"


def lattice(names, shape, extent):
    """Sums of points of named lattices, eight weights each."""
    need(0 < len(names) <= 4 and shape[1] % 8 == 0, "lattices, or columns")
    need(set(names) <= {"e8p", "e81b"}, f"lattices {names}", UnsupportedError)
    factors, total = finite(extent.array("float32", len(names)), "factors"), np.float32(0)
    for name, factor in zip(names, factors, strict=True):
        codes = extent.codes(16 if name == "e8p" else 8, (shape[0], shape[1] // 8))
        total = total + factor * (e8p(codes) if name == "e8p" else e81b()[codes])
    return total.reshape(shape)


def vectors(*sides):
    """Vectors of eight with these components, in lexicographic order."""
    return np.array(list(product(sides, repeat=8)))


def e8p(codes):
    magnitudes = vectors(0.5, 1.5, 2.5)
    longer = np.unpackbits(np.frombuffer(bytes.fromhex(NORM_12), np.uint8)).reshape(-1, 8) + 0.5
    magnitudes = np.vstack([magnitudes[(magnitudes**2).sum(axis=1) <= 10], longer])[codes >> np.uint64(8)]
    signs = codes[..., None] >> np.array([0, 4, 1, 5, 2, 6, 3, 7], np.uint64) & 1  # of the components
    odd = signs.sum(axis=-1) % 2
    signs[..., 0] ^= odd
    signs[..., 7] ^= magnitudes.sum(axis=-1).astype(np.uint64) % 2
    return (magnitudes * (1 - 2.0 * signs) + (0.25 - 0.5 * odd)[..., None]).astype(np.float32)


def e81b():
    near = np.vstack([vectors(-1, 0, 1), vectors(-0.5, 0.5)])
    near = near[(near.sum(axis=1) % 2 == 0) & ((near**2).sum(axis=1) <= 2)]
    return np.vstack([near, 2 * np.eye(8), -2 * np.eye(8)[:7]]).astype(np.float32)


# -- codings/lookup.md: the tables -------------------------------------------------------------------------------------

MINIFLOATS = {"e2m1": (2, 1, 1), "e2m3": (2, 3, 1), "e3m2": (3, 2, 3), "e4m3": (4, 3, 7)}
NF4 = [-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1]  # fmt: skip
IQ4_NL = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]


def named_table(name):
    """The tables of lookup.md, float32."""
    half = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / np.float32(12)
    listed = {"nf4": NF4, "iq4_nl": IQ4_NL, "fp4": [*half, *(0 - half)]}
    listed["e5m2"] = (np.arange(256, dtype=np.uint16) << 8).view(np.float16)  # the high byte of one
    listed["e8m0"] = [2.0 ** (code - 127) for code in range(255)] + [math.nan]
    if name in listed:
        return np.array(listed[name], np.float32)
    if name == "dynamic8":
        return dynamic8()
    need(name in MINIFLOATS, f"table {name}", UnsupportedError)
    exponent, mantissa, bias = MINIFLOATS[name]
    code = np.arange(2 ** (1 + exponent + mantissa))
    power, fraction = code >> mantissa & (2**exponent - 1), (code & (2**mantissa - 1)) / 2**mantissa
    value = np.ldexp(fraction + (power > 0), np.maximum(power, 1) - bias)
    if name == "e4m3":
        value[code & 0x7F == 0x7F] = math.nan
    return np.where(code >> (exponent + mantissa), -value, value).astype(np.float32)


def dynamic8():
    values, start = [0.0, 1.0], float(np.float32(0.1))
    for i in range(7):
        n, step = 2**i, float(np.float32((1 - start) / 2**i))
        ends = np.float32([start + k * step if k < (n + 1) // 2 else 1 - (n - k) * step for k in range(n + 1)])
        middles = np.float32(10.0 ** (i - 6)) * ((ends[:-1] + ends[1:]) / np.float32(2))
        values += [*middles, *-middles]
    return np.sort(np.float32(values))


# -- codings/panel.md, codings/additive.md -----------------------------------------------------------------------------

PLANES = {3: [2, 1], 5: [4, 1], 6: [4, 2], 7: [4, 2, 1]}


def panels(c, children, shape, extent):
    """Codes and the numbers beside them, as integers by name. Whatever is not read must be zero."""
    (rows, columns), group = shape, node_of(c["group"], "group")
    need(group["group"] == "block" and group["rows"] == 1 and "scales" in children, "groups and scales of panels")
    wide = group["columns"] or max(columns, 1)
    need(group["columns"] is None or wide % 16 == 0, "groups of panels")
    nodes = {name: node_of(child, "coding") for name, child in children.items()}
    width = {name: n.get("bits") or 8 * storage(n["dtype"]).itemsize for name, n in nodes.items()}
    pieces = []  # of a panel: what, its first column, number of columns, shift, bits, bytes
    for number, left in enumerate(range(0, columns, wide)):
        pieces += [(name, number, 1, 0, bits, 2 * bits) for name, bits in width.items()]
        for start in range(left, min(left + wide, columns), 64):
            inputs, shift = min(start + 64, left + wide, columns) - start, 0
            for bits in PLANES.get(c["bits"], [c["bits"]]):
                pieces.append(("codes", start, inputs, shift, bits, 64 * -(-inputs * bits // 32)))
                shift += bits
    count, place = -(-rows // 16), 0
    raw = extent.panels(count, sum(piece[-1] for piece in pieces))
    found = {name: np.zeros((16 * count, -(-columns // wide)), np.uint64) for name in width}
    found["codes"] = np.zeros((16 * count, columns), np.uint64)
    for name, first, inputs, shift, bits, size in pieces:
        piece, place = raw[:, place : place + size].tobytes(), place + size
        if name == "codes":  # of (panel, column of dwords, row, byte k, field j), input 4·j + k of that column
            dwords = integers(piece, bits, (count, size // 64, 16, 4, 8 // bits))
            values = dwords.transpose(0, 2, 1, 4, 3).reshape(16 * count, size // 64 * 32 // bits)
        else:
            values = integers(piece, bits, (16 * count, 1))
        need(not values[:, inputs:].any() and not values[rows:].any(), "padding of a panel")
        found[name][:, first : first + inputs] |= values[:, :inputs] << np.uint64(shift)
    return {name: array[:rows] for name, array in found.items()}


def book_panels(c, children, shape, extent):
    """The codes of an additive coding, from panels of 64 rows of blocks; its scales are not beside them."""
    bits, (down, across, books) = c["bits"], shape
    count = -(-down // 64)
    raw, place = extent.panels(count, across, books, 8 * bits), 0
    codes = np.zeros((count, 64, across, books), np.uint64)
    low = min(bits, 8)
    for w in PLANES.get(low, [low]) + PLANES.get(bits - low, [bits - low] * (bits > low)):
        piece = raw[..., place : place + 8 * w].tobytes()  # byte k, field j: row j·8·w + k
        fields = integers(piece, w, (count, across, books, 8 * w, 8 // w)).transpose(0, 4, 3, 1, 2)
        codes, place = codes | fields.reshape(codes.shape) << np.uint64(place // 8), place + 8 * w
    codes = codes.reshape(64 * count, across, books)
    need(not codes[down:].any(), "padding of a panel")
    return {"codes": codes[:down]}
