"""Between numpy and torch without copies. torch cannot take a bfloat16 array, so its bits change hands as int16."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qformat.container.sources import allow_writing
from qformat.dtypes import numpy_dtype
from qformat.errors import UnsupportedError
from qformat.tensor import Tensor

# Names in the file that torch calls otherwise or stores as other numpy types.
_BITS = {"bfloat16": np.int16, "float8_e4m3fn": np.uint8, "float8_e5m2": np.uint8, "float8_e8m0fnu": np.uint8}


def torch_dtype(name: str) -> torch.dtype:
    """The torch type called `name` in a file; UnsupportedError when this torch has none."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise UnsupportedError("torch has no such dtype", field="dtype", found=name)
    return dtype


def chosen(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A dtype as users write it; None for None and for "auto", transformers' word for it.

    Raises:
        UnsupportedError: this torch has none of that name.
    """
    if dtype is None or dtype == "auto":
        return None
    return dtype if isinstance(dtype, torch.dtype) else torch_dtype(str(dtype))


def dtype_name(dtype: torch.dtype) -> str:
    """What a file calls a torch type."""
    return str(dtype).removeprefix("torch.")


def from_array(array: NDArray[Any]) -> torch.Tensor:
    """A tensor over the memory of `array`, which keeps it alive.

    torch does not know of memory that is read-only: who hands such a tensor out sees to it that it can be written to.
    """
    name = array.dtype.name
    bits = array.view(_BITS[name]) if name in _BITS else array
    if array.flags.writeable:
        tensor = torch.from_numpy(bits)
    else:
        with warnings.catch_warnings():
            # torch warns of arrays that it could be made to write to; these are parameters without gradients
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensor = torch.from_numpy(bits)
    return tensor.view(torch_dtype(name)) if name in _BITS else tensor


def to_array(tensor: torch.Tensor) -> NDArray[Any]:
    """The memory of a CPU tensor as an array; bfloat16 as ml_dtypes' type."""
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(numpy_dtype("bfloat16"))
    array: NDArray[Any] = tensor.numpy()
    return array


def dense(tensor: Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The weights of a file's tensor as a torch tensor in its source's shape.

    Args:
        tensor: of the file. If it is stored as it is, in the type asked for, the result is a view of the mapping: what
            is written to it is this process's own.
        dtype: of the result; None for the type that the source had.
    """
    name = tensor.dtype if dtype is None else dtype_name(dtype)
    scheme = tensor.scheme
    plain = not (scheme.transforms or scheme.output_transforms or scheme.corrections or scheme.transposed)
    if plain and tensor.coding == "dense":
        values = tensor.arrays()["values"]
        if values.dtype == numpy_dtype(name):
            allow_writing(values)
            return from_array(values)
    return from_array(np.ascontiguousarray(tensor.decode(numpy_dtype(name))))
