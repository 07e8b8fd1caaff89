"""The JSON part of an index: features, schemes, metadata and, for sets of shards, their table."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from qformat.container import strictjson
from qformat.container.constants import LIMITS, Limits
from qformat.errors import InvalidFileError, LimitError, UnsupportedError

REQUIRED_FEATURES = frozenset({"shards"})  # container features that this reader has

_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.qf", re.ASCII)
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class Features(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Container features by name: an unknown required one refuses the file, an unknown optional one is ignored."""

    required: list[str] = []
    optional: list[str] = []


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a set, as the manifest lists it: name beside the manifest, size in bytes, digest in hex."""

    file: str
    size: int
    digest: str


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a shard says about itself: number `number` (from 1) of `count`."""

    number: int
    count: int


class Document(msgspec.Struct, frozen=True, omit_defaults=True):
    """The document; members that begin with "x-" are nobody's business and are kept."""

    schemes: list[dict[str, Any]] = []
    metadata: dict[str, Any] = {}
    features: Features = Features()
    part: Part | None = None
    shards: list[Shard] = []


_MEMBERS = frozenset(Document.__struct_fields__)


def decode(data: bytes, *, newer: bool, limits: Limits = LIMITS, file: object = None, base: int = 0) -> Document:
    """Check and read the document at offset `base`; `newer` files (a later minor version) may have more members."""
    tree = strictjson.loads(data, limits=limits, file=file, base=base)
    where = {"file": file, "field": "json", "offset": base}
    if not isinstance(tree, dict):
        raise InvalidFileError("the document is not an object", **where, found=type(tree).__name__)
    unknown = [key for key in tree if key not in _MEMBERS and not key.startswith("x-")]
    # What a newer writer needs us to know stands in features.required, which is looked at first.
    _check_features(tree.get("features"), where)
    if unknown and not newer:
        raise InvalidFileError("unknown member", **where, expected=", ".join(sorted(_MEMBERS)), found=unknown[0])
    try:
        document = msgspec.convert({key: tree[key] for key in _MEMBERS if key in tree}, Document)
    except msgspec.ValidationError as error:
        raise InvalidFileError(f"wrong type: {error}", **where) from error
    check_metadata(document.metadata, limits=limits, file=file)
    for shard in document.shards:
        check_shard_name(shard.file, file=file)
        if len(shard.digest) != 64 or not re.fullmatch("[0-9a-f]{64}", shard.digest):
            raise InvalidFileError("a shard's digest is not 64 hex digits", file=file, field="shards.digest", found=shard.digest)
        if not 0 < shard.size < 2**53:
            raise InvalidFileError("a shard's size is impossible", file=file, field="shards.size", found=shard.size)
    _check_set(document, limits, file)
    return document


def encode(document: Document, extra: dict[str, Any] | None = None) -> bytes:
    """The canonical text of a document, with members `extra` that begin with "x-"."""
    tree: dict[str, Any] = msgspec.to_builtins(document)
    return strictjson.canonical({**(extra or {}), **tree})


def check_metadata(metadata: dict[str, Any], *, limits: Limits = LIMITS, file: object = None) -> None:
    """LimitError when the metadata is larger than readers accept; used by writers too."""
    size = len(strictjson.canonical(metadata))
    if size > limits.metadata_bytes:
        raise LimitError("metadata is too large", file=file, field="metadata", expected=f"at most {limits.metadata_bytes} bytes", found=size)
    for key in metadata:
        if not 0 < len(key) <= limits.name_bytes:
            raise LimitError("bad metadata key", file=file, field="metadata", expected=f"1 to {limits.name_bytes} characters", found=key)


def check_shard_name(name: str, *, file: object = None) -> None:
    """InvalidFileError unless `name` is a plain file name on every system: no directory, drive, device or stream."""
    if len(name) > 255 or not _SHARD_NAME.fullmatch(name) or _DEVICES.fullmatch(name):
        raise InvalidFileError("not a plain .qf file name", file=file, field="shards.file", found=name)


def _check_features(features: Any, where: dict[str, Any]) -> None:
    required = features.get("required", []) if isinstance(features, dict) else []
    for name in required if isinstance(required, list) else []:
        if not isinstance(name, str) or name not in REQUIRED_FEATURES:
            raise UnsupportedError("the file needs a feature that this version lacks", **{**where, "field": "features.required"}, found=name)


def _check_set(document: Document, limits: Limits, file: object) -> None:
    if len(document.shards) > limits.shards:
        raise LimitError("too many shards", file=file, field="shards", expected=f"at most {limits.shards}", found=len(document.shards))
    if bool(document.shards) != ("shards" in document.features.required):
        raise InvalidFileError("the shard table and the feature \"shards\" belong together", file=file, field="shards")
    names = [shard.file for shard in document.shards]
    if len(set(map(str.lower, names))) != len(names):
        raise InvalidFileError("a shard is listed twice", file=file, field="shards.file")
    if document.part and document.shards:
        raise InvalidFileError("a manifest cannot itself be a shard", file=file, field="part")
    if document.part and not 1 <= document.part.number <= document.part.count <= limits.shards:
        raise InvalidFileError("impossible shard number", file=file, field="part", found=f"{document.part.number} of {document.part.count}")
