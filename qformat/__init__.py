"""One versioned, memory-mappable container for every quantization method.

with qformat.open("model.qf") as model:
    model["model.layers.0.mlp.up_proj.weight"].decode()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qformat.errors import QFormatError

if TYPE_CHECKING:
    from qformat.converters.run import convert
    from qformat.store import Model, Tensor, open, verify

__version__ = "0.1.0"

__all__ = ["Model", "QFormatError", "Tensor", "__version__", "convert", "open", "verify"]


def __getattr__(name: str) -> Any:
    # the converter brings yaml, safetensors and its native loops, the store codings and kernels: who only wants to look
    # at a file (`qformat inspect`) pays for none of them
    if name in ("Model", "Tensor", "open", "verify"):
        from qformat import store

        return getattr(store, name)
    if name == "convert":
        from qformat.converters.run import convert

        return convert
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
