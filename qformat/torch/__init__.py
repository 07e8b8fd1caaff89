"""qformat for torch: a linear layer over the mapped file, and loading a file into a model."""

from __future__ import annotations

from qformat import kernels
from qformat.torch.embedding import QEmbedding
from qformat.torch.experts import QExperts
from qformat.torch.linear import QLinear, set_mode
from qformat.torch.load import Loaded, load_into
from qformat.torch.pretrained import compile_config, load_model, load_tokenizer

__all__ = [
    "Loaded",
    "QEmbedding",
    "QExperts",
    "QLinear",
    "compile_config",
    "load_into",
    "load_model",
    "load_tokenizer",
    "set_mode",
]

# torch's loops and the kernels' run in turns, so they use the same threads
kernels.share_openmp()
