"""Hub ids: huggingface_hub finds (or, offline, already has) the snapshot; the rest is a directory."""

from __future__ import annotations

import re
from pathlib import Path

from qformat.converters.sources.directory import ATTACHMENTS, open_directory
from qformat.converters.sources.model import Source
from qformat.errors import SourceError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?", re.ASCII)
_WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]
_TORCH = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


def looks_like_hub_id(text: str) -> bool:
    """``name``, ``org/name`` or either with ``@revision``."""
    return bool(_HUB_ID.fullmatch(text)) and ".." not in text and not text.endswith((".safetensors", ".bin", ".qf"))


def open_hub(text: str, *, revision: str | None = None, trust_quantized: bool = False) -> Source:
    """The snapshot of hub id `text` (``org/name[@revision]``), from the network or from the local cache."""
    name, _, written = text.partition("@")
    folder = _snapshot(name, revision or written or None)
    commit = folder.name if folder.parent.name == "snapshots" else None
    return open_directory(folder, hub_id=name, revision=commit, trust_quantized=trust_quantized)


def _snapshot(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    except ImportError as error:
        raise SourceError("no such path, and hub ids need huggingface_hub", file=name) from error
    side, failures = list(ATTACHMENTS), []
    for local in (False, True):
        try:
            folder = Path(
                snapshot_download(name, revision=revision, allow_patterns=[*_WEIGHTS, *side], local_files_only=local)
            )
            if not any(folder.glob("*.safetensors")):
                folder = Path(
                    snapshot_download(name, revision=revision, allow_patterns=[*_TORCH, *side], local_files_only=local)
                )
            return folder
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
            failures.append(error)
    why = failures[0]  # the network's; that the cache does not have it either says nothing more
    said = "" if isinstance(why, LocalEntryNotFoundError | OfflineModeIsEnabled) else f": {str(why).splitlines()[0]}"
    raise SourceError(f"no such path, and no such model in the hub or its cache{said}", file=name) from why
