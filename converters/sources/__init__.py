"""What a conversion reads: the tensors and side files of a checkpoint, known from headers alone.

`open_source` takes a Hugging Face directory, a bare safetensors or torch file, or a hub id. Nothing of a checkpoint is
executed, imported or trusted: names, paths, sizes and ranges are checked before the first tensor is read.
"""

from __future__ import annotations

from pathlib import Path

from qformat.converters.sources.directory import open_directory, open_file
from qformat.converters.sources.hub import looks_like_hub_id, open_hub
from qformat.converters.sources.model import FileId, Source, SourceTensor
from qformat.errors import SourceError

__all__ = ["FileId", "Source", "SourceTensor", "open_source"]


def open_source(src: str | Path, *, revision: str | None = None, trust_quantized: bool = False) -> Source:
    """The checkpoint at `src`, read no further than its headers.

    Args:
        src: a directory, a `.safetensors` / `.bin` file, or a hub id such as ``org/name``.
        revision: branch, tag or commit of a hub id.
        trust_quantized: open a source that is already quantized (to look at it; `convert` never sets this).

    Raises:
        SourceError: naming the file, the tensor and the offset of whatever is wrong.
    """
    path = Path(src)
    if path.is_dir():
        return open_directory(path, trust_quantized=trust_quantized)
    if path.exists():
        return open_file(path, trust_quantized=trust_quantized)
    if looks_like_hub_id(str(src)):
        return open_hub(str(src), revision=revision, trust_quantized=trust_quantized)
    raise SourceError("no such file, directory or hub id", file=str(src))
