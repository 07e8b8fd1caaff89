"""What a scheme's JSON says, for listings: also of codings that this version cannot decode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class SchemeFacts(NamedTuple):
    """The few facts of a scheme that are listed; None where one has no meaning or has a type that is not understood."""

    coding: str | None
    method: str | None
    bits: int | None
    group_size: int | None
    label: str


def facts(scheme: Mapping[str, Any]) -> SchemeFacts:
    """The facts of a scheme as it stands in the index.

    >>> scales = {"coding": "dense", "dtype": "float16"}
    >>> coding = {"coding": "affine", "bits": 4, "group": {"group": "block", "columns": 64}, "scales": scales}
    >>> facts({"coding": coding, "method": "hqq"})
    SchemeFacts(coding='affine', method='hqq', bits=4, group_size=64, label='hqq 4-bit g64')
    >>> facts({"coding": {"coding": "dense", "dtype": "bfloat16"}}).label
    'bfloat16'
    """
    coding = scheme.get("coding")
    coding = coding if isinstance(coding, Mapping) else {}
    name, method = _text(coding.get("coding")), _text(scheme.get("method"))
    if name == "dense":
        return SchemeFacts(name, method, None, None, _text(coding.get("dtype")) or name)
    bits = _whole(coding.get("bits"))
    size = _group_size(coding.get("group")) if isinstance(coding.get("scales"), Mapping) else None
    return SchemeFacts(name, method, bits, size, _label(scheme, coding, method or name or "?", bits, size))


def _group_size(group: object) -> int | None:
    """Weights under one scale: of a row's block or of a run; None for whole rows and for any other shape."""
    if not isinstance(group, Mapping):
        return None
    if group.get("group") == "block":
        return _whole(group.get("columns")) if group.get("rows", 1) == 1 else None
    return _whole(group.get("size"))


def _label(scheme: Mapping[str, Any], coding: Mapping[str, Any], name: str, bits: int | None, size: int | None) -> str:
    """`hqq 4-bit g64`, `nf4 g64 double`, `awq 4-bit g128 + lowrank`."""
    parts = [name]
    if coding.get("coding") == "split":
        parts.append(_widths(coding.get("parts")))
    elif coding.get("coding") == "lattice":
        lattices = coding.get("lattices")
        parts.append("+".join(map(str, lattices)) if isinstance(lattices, list | tuple) else "?")
    elif coding.get("coding") == "additive":
        parts.append(f"{coding.get('books')}×{bits}")
    elif bits is not None and not name.endswith(str(bits)):
        parts.append(f"{bits}-bit")
    parts.append(_group_label(coding.get("group"), size) if isinstance(coding.get("scales"), Mapping) else "")
    scales = coding.get("scales")
    if isinstance(scales, Mapping) and scales.get("coding") != "dense":
        parts.append("double")
    corrections = scheme.get("corrections")
    if isinstance(corrections, list):
        parts += [f"+ {entry.get('correction')}" for entry in corrections if isinstance(entry, Mapping)]
    return " ".join(filter(None, parts))


def _widths(parts: object) -> str:
    """`6+4`, `4+dense`: the widths, or else the codings, that the runs of columns have."""
    each = [part if isinstance(part, Mapping) else {} for part in parts] if isinstance(parts, list | tuple) else []
    labels = [str(_whole(part.get("bits")) or _text(part.get("coding")) or "?") for part in each]
    return "+".join(dict.fromkeys(labels))


def _group_label(group: object, size: int | None) -> str:
    """`g64`; `row` and `tensor` for one scale each; `32x64` for blocks of several rows."""
    if size is not None:
        return f"g{size}"
    if group is None:
        return "tensor"
    rows, columns = (group.get("rows", 1), group.get("columns")) if isinstance(group, Mapping) else (1, None)
    if columns is None:
        return {1: "row", None: "tensor"}.get(_whole(rows), "")
    return f"{'all' if rows is None else rows}×{columns}"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
