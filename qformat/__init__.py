"""One versioned, memory-mappable container for every quantization method.

with qformat.open("model.qf") as model:
    model["model.layers.0.mlp.up_proj.weight"].decode()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qformat.errors import QFormatError

if TYPE_CHECKING:
    from qformat.converters.run import convert
    from qformat.store import Model, open
    from qformat.tensor import Tensor
    from qformat.verification import verify

__version__ = "0.1.0"

_HOMES = {
    "Model": "qformat.store",
    "Tensor": "qformat.tensor",
    "convert": "qformat.converters.run",
    "open": "qformat.store",
    "verify": "qformat.verification",
}

__all__ = ["Model", "QFormatError", "Tensor", "__version__", "convert", "open", "verify"]


def __getattr__(name: str) -> Any:
    # the converter brings yaml, safetensors and its native loops, the store codings and kernels: who only wants to look
    # at a file (`qformat inspect`) pays for none of them
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
