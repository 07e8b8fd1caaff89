"""What a conversion will do and cost, from headers alone: nothing of a tensor's data is read.

Each tensor gets one `Item`: what it becomes, under which rule and why, its axis, and the exact bytes of its extent. The
run follows the plan item by item, in the plan's order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import msgspec

from qformat import dtypes, linear
from qformat.codings.grammar import Dense
from qformat.converters.methods import METHODS, Method
from qformat.converters.recipe import Recipe, Rule
from qformat.converters.roles import FLOATS, Role, execution_order, is_conv1d_model, role_of
from qformat.converters.sources import Source, SourceTensor
from qformat.errors import CoverageError, RecipeError
from qformat.schemes import Scheme
from qformat.text import fold_layers

SLAB_WEIGHTS = 2**21  # weights in a slab: fixed, so that results depend on neither memory nor workers
_CAN_BE_FORCED = ("output head", "embedding", "router", "small mixer", "a matrix", "unknown 3-D", "fused experts")

# Weights a second and core, on a 2022 server core; only the estimate of the time uses them.
_RATES = {"rtn": 5e8, "eetq": 5e8, "int8": 5e8, "nf4": 3e8, "fp4": 3e8, "ls": 3e7, "hqq": 5e7, "sinq": 3e7, "tail": 1e8}
_DISK_RATE = 5e8


@dataclass(frozen=True)
class Item:
    """One tensor of the output."""

    tensor: SourceTensor
    action: str  # "quantize", "dense" or "alias"
    reason: str
    scheme: Scheme
    matrix: tuple[int, int]
    length: int  # bytes of the extent
    method: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    rule: str | None = None
    transposed: bool = False
    parameters: tuple[int, ...] = ()
    target: str | None = None

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.length / self.tensor.size if self.tensor.size else 0.0

    @property
    def exact(self) -> bool:
        """Whether `length` is known from headers; a method that sets outliers apart gives an upper bound."""
        return not self.scheme.corrections

    @property
    def axis(self) -> str:
        return "in_out" if self.transposed else "out_in"

    def slab_rows(self) -> int:
        """Rows of a slab: what the method needs as a multiple, near SLAB_WEIGHTS weights."""
        step = METHODS[self.method].granularity(self.options, self.matrix) if self.method else 1
        return step * max(1, SLAB_WEIGHTS // max(1, step * self.matrix[1]))

    def slabs(self) -> list[tuple[int, int]]:
        """Row ranges that cover the matrix."""
        rows, step = self.matrix[0], self.slab_rows()
        return [(start, min(start + step, rows)) for start in range(0, rows, step)] or [(0, 0)]

    def dense(self, reason: str) -> Item:
        """The same tensor left as it is."""
        return _dense_item(self.tensor, reason, self.rule)


@dataclass(frozen=True)
class Plan:
    """All items in execution order, and what they add up to."""

    source: Source
    recipe: Recipe
    items: tuple[Item, ...]
    unmatched: tuple[Rule, ...]
    attachments: int  # bytes

    @property
    def weights(self) -> int:
        return sum(item.tensor.size for item in self.items if item.action != "alias")

    @property
    def nbytes(self) -> int:
        """Bytes of all extents, before any compression."""
        return sum(item.length for item in self.items)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / self.weights if self.weights else 0.0

    def seconds(self, workers: int) -> float:
        """A rough time: the slower of computing and of reading and writing."""
        work = sum(i.tensor.size / _RATES.get(i.method, 1e8) for i in self.items if i.method) / max(workers, 1)
        return max(work, (self.source.nbytes + self.nbytes) / _DISK_RATE) + 0.5

    def disk(self) -> int:
        """Free bytes that the run needs at most: the output, and the largest tensor's spool."""
        return (
            self.nbytes
            + self.attachments
            + 4096 * (len(self.items) + 2)
            + max((i.length for i in self.items), default=0)
        )

    def require_coverage(self) -> None:
        """CoverageError if a rule decides nothing."""
        if self.unmatched:
            names = ", ".join(rule.match for rule in self.unmatched)
            raise CoverageError(
                "these rules match no tensor that they could change; nothing was written", field="rules", found=names
            )


def make_plan(source: Source, recipe: Recipe) -> Plan:
    """Decide for every tensor; RecipeError for a method or option that makes no sense for the tensors it meets."""
    _check_method(recipe.method, recipe)
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    conv1d = is_conv1d_model(shapes, source.model_type)
    roles = {
        name: role_of(name, tensor.dtype, tensor.shape, source.config, conv1d)
        for name, tensor in source.tensors.items()
    }
    rules = {name: recipe.rule_for(name) for name in shapes}
    about_linears = {id(rule) for name, rule in rules.items() if rule is not None and roles[name].linear}
    aliases = source.aliases()
    items, used = [], set()
    for name in execution_order(n for n in shapes if n not in aliases):
        rule = rules[name]
        item = _decide(source.tensors[name], roles[name], recipe, rule, rule is not None and id(rule) in about_linears)
        items.append(item)
        if rule is not None and (item.action == "quantize" or rule.skip):
            used.add(id(rule))
    items += [_alias_item(source.tensors[name], aliases[name]) for name in execution_order(aliases)]
    attachments = sum(file.size for file in source.attachments.values())
    unmatched = tuple(rule for rule in recipe.rules if id(rule) not in used)
    return Plan(source, recipe, tuple(items), unmatched, attachments)


def _check_method(name: str, recipe: Recipe) -> None:
    if name not in METHODS:
        raise RecipeError("unknown method", field="method", expected=", ".join(METHODS), found=name)
    METHODS[name].resolve(recipe.choice(None)[1])


def _decide(tensor: SourceTensor, role: Role, recipe: Recipe, rule: Rule | None, about_linears: bool) -> Item:
    """A rule that matches linears is about linears; one that matches none makes linears of what it matches."""
    pattern = rule.match if rule else None
    if rule is not None and rule.skip:
        return _dense_item(tensor, "skipped by a rule" if role.linear else role.reason, pattern)
    forced = (
        rule is not None
        and not role.linear
        and not about_linears
        and bool(rule.method or rule.axis or rule.options)
        and len(tensor.shape) >= 2
        and tensor.dtype in FLOATS
        and role.reason.startswith(_CAN_BE_FORCED)
        and tensor.size > 0
    )
    if not role.linear and not forced:
        return _dense_item(tensor, role.reason, pattern)
    transposed = role.transposed if rule is None or rule.axis is None else rule.axis == "in_out"
    name, written = recipe.choice(rule)
    if name not in METHODS:
        raise RecipeError("unknown method", field="method", expected=", ".join(METHODS), found=name)
    method = METHODS[name]
    options = method.resolve(written)
    matrix = tensor.matrix_shape(transposed)
    scheme, parameters, length = scheme_of(method, options, tensor, transposed)
    reason = f"{role.reason}, asked for by a rule" if forced else role.reason
    return Item(tensor, "quantize", reason, scheme, matrix, length, name, options, pattern, transposed, parameters)


def scheme_of(
    method: Method, options: Mapping[str, Any], tensor: SourceTensor, transposed: bool
) -> tuple[Scheme, tuple[int, ...], int]:
    """(scheme, recorded parameters, bytes of the extent) of one tensor."""
    matrix = tensor.matrix_shape(transposed)
    scheme = method.scheme(options, matrix, tensor.dtype)
    if transposed:
        scheme = msgspec.structs.replace(scheme, transposed=True)
    # How many weights a method sets apart is known only from the data; the plan takes the most that it may be.
    most = {"number": int(options.get("fraction", 0) * matrix[0] * matrix[1])}
    parameters = method.count(options, matrix, most)
    return scheme, parameters, linear.layout(scheme, matrix, parameters).length


def _dense_item(tensor: SourceTensor, reason: str, rule: str | None) -> Item:
    scheme = Scheme(coding=Dense(dtype=tensor.dtype))
    return Item(tensor, "dense", reason, scheme, tensor.matrix_shape(), tensor.nbytes, rule=rule)


def _alias_item(tensor: SourceTensor, target: str) -> Item:
    scheme = Scheme(coding=Dense(dtype=tensor.dtype))
    return Item(tensor, "alias", f"the same bytes as {target}", scheme, tensor.matrix_shape(), 0, target=target)


def cut(items: Sequence[Item], limit: int | None) -> list[int]:
    """How many items each shard holds: cut by raw size, in order, a shard never empty."""
    counts, size = [0], 0
    for item in items:
        if limit is not None and counts[-1] and size + item.length > limit:
            counts.append(0)
            size = 0
        counts[-1] += 1
        size += item.length
    return counts


def coverage(items: tuple[Item, ...]) -> dict[str, Any]:
    """What was quantized and what was not and why, names folded over layers: small enough to stand in the file."""
    quantized = [item for item in items if item.action == "quantize"]
    reasons: dict[str, dict[str, None]] = {}
    for item in items:
        if item.action == "dense":
            reasons.setdefault(item.reason, {})[fold_layers(item.name)] = None
    return {
        "quantized": {"tensors": len(quantized), "weights": sum(item.tensor.size for item in quantized)},
        "dense": {
            "tensors": sum(item.action == "dense" for item in items),
            "weights": sum(item.tensor.size for item in items if item.action == "dense"),
            "reasons": {reason: list(names) for reason, names in sorted(reasons.items())},
        },
    }


def slab_bytes(item: Item) -> int:
    """Bytes that coding one slab of `item` takes: source, float32, the method's own copies, the result twice."""
    if item.action != "quantize":
        return min(item.length, 2**22) * 3
    weights = prod((min(item.slab_rows(), item.matrix[0]), item.matrix[1]))
    copies = 3 if item.method in ("rtn", "eetq", "int8", "nf4", "fp4") else 8
    return weights * (dtypes.itemsize(item.tensor.dtype) + 4 * copies + 2)


def waiting_bytes(item: Item) -> int:
    """Bytes of what is known of one slab while it waits for its turn: its codes, or the rows that sinq samples."""
    packed = item.length // max(len(item.slabs()), 1)
    sample = 4 * prod((min(item.slab_rows(), item.matrix[0]), item.matrix[1])) if item.method == "sinq" else 0
    return max(packed, sample)
