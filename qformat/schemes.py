"""Schemes: what a file says about how a tensor decodes, as data classes and as JSON in the index (spec: scheme.md)."""

from __future__ import annotations

from math import isfinite
from typing import Any, Literal, get_args

import msgspec

from qformat import codings, corrections, transforms
from qformat.codings import tables, trellis
from qformat.codings.grammar import Coding, Frozen, Grouping, Layout
from qformat.corrections import Correction
from qformat.dtypes import TABLE as DTYPES
from qformat.errors import InvalidFileError, LimitError, UnsupportedError
from qformat.transforms import Reassemble, Transform

PARAMETERS = 4
TRANSFORMS = 16


class Activations(Frozen, frozen=True):
    """A note for the runtime: how the activations that meet this weight may be rounded; decoding ignores it."""

    bits: int
    granularity: Literal["token", "tensor"] = "token"
    outlier_threshold: float | None = None


class Scheme(Frozen, frozen=True):
    """All that a file says about how a tensor decodes, but for the numbers that depend on its data."""

    coding: Coding
    transposed: bool = False
    transforms: tuple[Transform, ...] = ()
    output_transforms: tuple[Transform, ...] = ()
    corrections: tuple[Correction, ...] = ()
    activations: Activations | None = None
    method: str | None = None


def _tags(nodes: Any) -> set[str]:
    return {node.__struct_config__.tag for node in get_args(nodes)}


# The names of this version, by the member that holds them.
_KNOWN: dict[str, set[str]] = {
    "coding": _tags(Coding),
    "function": {*trellis.COMPUTED, *trellis.STORED},
    "order": set(trellis.ORDERS),
    "group": _tags(Grouping),
    "transform": _tags(Transform),
    "correction": _tags(Correction),
    "layout": set(get_args(Layout)),
    "table": {*tables.TABLE, *tables.STORED},
    "dtype": set(DTYPES),
}


def parse(document: object) -> Scheme:
    """The scheme that a JSON object describes, validated.

    Raises:
        UnsupportedError: a coding, grouping, transform, correction, layout, table or dtype that this version lacks.
        InvalidFileError: anything else that breaks the grammar; `field` is the path.
    """
    _refuse_unknown(document)
    try:
        scheme = msgspec.convert(document, Scheme, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidFileError(f"scheme breaks the grammar: {error}", field="scheme") from None
    validate(scheme)
    return scheme


def _refuse_unknown(document: object) -> None:
    """Names that a later version may know are reported as unsupported, not as damage."""
    pending: list[tuple[object, str, int]] = [(document, "scheme", 1)]
    while pending:
        node, path, depth = pending.pop()
        if depth > 2 * codings.DEPTH + 4:
            raise LimitError("scheme nests too deep", field=path)
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            where = f"{path}.{key}"
            known = _KNOWN.get(key) if isinstance(key, str) else None
            if known is not None and isinstance(value, str) and value not in known:
                raise UnsupportedError(f"unknown {key}", field=where, expected=", ".join(sorted(known)), found=value)
            if isinstance(value, dict | list):
                pending.append((value, where, depth + 1))


def dump(scheme: Scheme) -> dict[str, Any]:
    """The JSON object of a scheme, without defaults. Inverse of `parse`."""
    document: dict[str, Any] = msgspec.to_builtins(scheme)
    return document


def validate(scheme: Scheme) -> None:
    """Parameters make sense whatever the shape."""
    codings.validate(scheme.coding)
    for side in ("transforms", "output_transforms"):
        listed: tuple[Transform, ...] = getattr(scheme, side)
        if len(listed) > TRANSFORMS:
            raise LimitError("too many transforms", field=side, expected=f"at most {TRANSFORMS}", found=len(listed))
        for number, transform in enumerate(listed):
            transforms.validate(transform, f"{side}.{number}", side == "output_transforms")
    for number, correction in enumerate(scheme.corrections):
        corrections.validate(correction, f"corrections.{number}")
    wanted = sum(2 if isinstance(node, Reassemble) else 0 for node in scheme.transforms) + len(scheme.corrections)
    if wanted > PARAMETERS:
        raise InvalidFileError("more than four parameters", field="corrections", found=wanted)
    if scheme.activations is not None:
        threshold = scheme.activations.outlier_threshold
        if not 1 <= scheme.activations.bits <= 16:
            raise InvalidFileError("bits out of range", field="activations.bits", found=scheme.activations.bits)
        if threshold is not None and not (isfinite(threshold) and threshold >= 0):
            raise InvalidFileError("threshold out of range", field="activations.outlier_threshold", found=threshold)
