"""Refusing, by name, a source that is already quantized: its codes are not weights."""

from __future__ import annotations

import re
from pathlib import Path

from qformat.converters.sources.model import Source
from qformat.errors import SourceError

_CONFIG_KEYS = ("quantization_config", "compression_config")
_SIDE_FILES = (
    "quantize_config.json",
    "quant_config.json",
    "quantization_config.json",
    "quanto_qmap.json",
    "hf_quant_config.json",
)
_PACKED = re.compile(
    r"(^|\.)(qweight|qzeros|g_idx|weight_packed|weight_scale|weight_scale_inv|weight_zero_point|codebooks|codes|W_q"
    r"|absmax|nested_absmax|quant_map|SCB|qscales|trellis|Qidxs|weight_blocks|weight_scales|.*_blocks|.*_scales)$"
)
_NUMBERS = ("float64", "float32", "float16", "bfloat16", "complex64")


def refuse_quantized(source: Source, root: Path | None) -> None:
    """Raise SourceError when configuration, side files or tensors say that the weights are codes."""
    for key in _CONFIG_KEYS:
        section = source.config.get(key)
        text = source.config.get("text_config")
        section = section or (text.get(key) if isinstance(text, dict) else None)
        if section:
            method = section.get("quant_method") if isinstance(section, dict) else None
            raise SourceError(
                "already quantized; no reader for it yet",
                file=str(root / "config.json") if root else source.label,
                field=key,
                found=method or section,
            )
    for name in _SIDE_FILES if root is not None else ():
        if root is not None and (root / name).exists():
            raise SourceError("already quantized; no reader for it yet", file=str(root / name), field=name)
    for tensor in source.tensors.values():
        if tensor.dtype.lower().startswith(("float8", "f8", "f6", "f4")):
            raise SourceError(
                "already quantized; no reader for it yet",
                file=tensor.file.path,
                tensor=tensor.name,
                field="dtype",
                found=tensor.dtype,
            )
        packed = _PACKED.search(tensor.name) and tensor.dtype not in _NUMBERS
        integers = tensor.name.endswith(".weight") and tensor.dtype not in _NUMBERS and len(tensor.shape) >= 2
        if packed or integers:
            raise SourceError(
                "packed integers: already quantized; no reader for it yet",
                file=tensor.file.path,
                tensor=tensor.name,
                field="dtype",
                found=tensor.dtype,
            )
