"""An embedding whose weight stays in the mapped file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from qformat import kernels
from qformat.codings.panel import ROWS
from qformat.tensor import Tensor
from qformat.torch import numbered
from qformat.torch.arrays import dense, dtype_name, from_array, to_array
from qformat.torch.siblings import KERNEL_DTYPES


class QEmbedding(nn.Module):
    """Rows of W (num_embeddings, embedding_dim), decoded when they are looked up.

    A head that is tied to it is a `QLinear` over the same tensor: no dense copy of W exists.

    Args:
        tensor: a 2-D weight of an open file whose rows decode alone (`Tensor.can_slice_rows`).
        dtype: of the rows; None for the type that the source had.
        padding_idx: as `nn.Embedding` keeps it, for code that asks.
        scale: what the rows are multiplied with; a tensor in the dtype of the rows.
    """

    embed_scale: torch.Tensor | float | None

    def __init__(
        self,
        tensor: Tensor,
        dtype: torch.dtype | None = None,
        padding_idx: int | None = None,
        scale: torch.Tensor | float | None = None,
    ) -> None:
        super().__init__()
        if isinstance(scale, torch.Tensor):
            self.register_buffer("embed_scale", scale, persistent=False)
        else:
            self.embed_scale = scale
        self.tensor, self.padding_idx = tensor, padding_idx
        self.num_embeddings, self.embedding_dim = tensor.matrix_shape
        self.dtype = dtype or getattr(torch, tensor.dtype)
        self._number = numbered.number(self)

    @property
    def weight(self) -> torch.Tensor:
        """The decoded weight in the source's shape and dtype: for code that looks at it; each look decodes it."""
        return dense(self.tensor)

    def replace(self, tensor: Tensor, dtype: torch.dtype | None = None) -> None:
        """Read another weight of the same shape from now on."""
        self.tensor, self.dtype = tensor, dtype or getattr(torch, tensor.dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> QEmbedding:
        # a module that changes its dtype (`half`, `to`) has rows of that one, as if they were parameters
        super()._apply(fn, recurse)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (…) of an integer type to (…, embedding_dim).

        Raises:
            IndexError: an id is out of range.
        """
        if numbered.recording():
            found: torch.Tensor = torch.ops.qformat.embedding(ids, self._number, self.embedding_dim, self.dtype)
        else:
            found = self.rows(ids)
        scale = self.embed_scale
        return found if scale is None else found * (scale.to(found.dtype) if isinstance(scale, torch.Tensor) else scale)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows of `ids`, each decoded once, in the order of the file."""
        if ids.numel() == 1 and (row := self._one(int(ids))) is not None:
            return row.view(*ids.shape, -1).to(ids.device)
        wanted, places = np.unique(ids.cpu().numpy(), return_inverse=True)
        if wanted.size:
            self._check(wanted[0], wanted[-1])
        decoded = from_array(self.tensor.decode(dtype_name(self.dtype), rows=wanted))
        return decoded[torch.from_numpy(places.reshape(ids.shape))].to(ids.device)

    def _one(self, row: int) -> torch.Tensor | None:
        """A row by the kernels, where the weight is ready for them already: as one is that is the head's too."""
        weight, kernel = self.tensor.prepared, kernels.active()
        if weight is None or not (weight.bare and weight.decodes(kernel) and self.dtype in KERNEL_DTYPES):
            return None
        self._check(row, row)
        panel, within = divmod(row, ROWS)
        rows = torch.empty((min(ROWS, self.num_embeddings - panel * ROWS), self.embedding_dim), dtype=self.dtype)
        weight.decode_panels(panel, panel + 1, to_array(rows), kernel)
        self.tensor.guard()
        return rows[within]

    def _check(self, least: int, most: int) -> None:
        if not 0 <= least <= most < self.num_embeddings:
            raise IndexError(f"ids from {least} to {most}, expected 0 ≤ id < {self.num_embeddings}")

    def extra_repr(self) -> str:
        """What `print(model)` shows of it."""
        tensor = self.tensor
        words = [tensor.coding, tensor.method, tensor.bits and f"{tensor.bits}-bit"]
        return f"{self.num_embeddings}, {self.embedding_dim}, {' '.join(str(word) for word in words if word)}"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # as QLinear: the weight travels as the path of its file
        return QEmbedding, (self.tensor, self.dtype, self.padding_idx, self.embed_scale)


_library = torch.library.Library("qformat", "FRAGMENT")
_library.define("embedding(Tensor ids, int layer, int width, ScalarType dtype) -> Tensor")


def _embedding(ids: torch.Tensor, layer: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    found: torch.Tensor = numbered.layer(layer).rows(ids)
    return found


def _embedding_fake(ids: torch.Tensor, layer: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty((*ids.shape, width), dtype=dtype, device=ids.device)


_library.impl("embedding", _embedding, "CompositeExplicitAutograd")
torch.library.register_fake("qformat::embedding", _embedding_fake, lib=_library)
