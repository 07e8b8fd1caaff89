"""One matrix of a stack: an expert of a weight (experts, out_features, in_features)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from qformat import kernels, linear
from qformat.codings.parts import Part
from qformat.errors import UnsupportedError
from qformat.selection import Index, Selection
from qformat.tensor import Tensor


class Member(Tensor):
    """Entry `number` of the first dimension of a three-dimensional weight, decoded and multiplied with alone.

    What the index says of it (name, error, extent) is said of the whole stack.

    Raises:
        UnsupportedError: other than three dimensions, or output transforms that mix rows.
        IndexError: no such entry.
    """

    def __init__(self, stack: Tensor, number: int) -> None:
        super().__init__(stack._model, stack.name)
        self.stack, self.number = stack, number
        if len(stack.shape) != 3 or not linear.row_local(self.scheme):
            raise UnsupportedError(
                "not a stack of matrices of their own", file=stack._model.path, tensor=self.name, found=stack.shape
            )
        if not 0 <= number < stack.shape[0]:
            raise IndexError(f"entry {number} of {stack.shape[0]}")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that it has in the source."""
        return self.stack.shape[1:]

    @property
    def nbytes(self) -> int:
        """Its share of the bytes of the extent."""
        return self.stack.nbytes // self.stack.shape[0]

    @property
    def _coded_shape(self) -> tuple[int, int]:
        return self.stack.matrix_shape

    @cached_property
    def checked(self) -> dict[str, NDArray[Any] | Part]:
        """Every role of the stack."""
        return self.stack.checked

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every role of the stack; where it is stored as it is, the values of this member."""
        arrays = self.stack.arrays()
        if arrays.keys() == {"values"} and arrays["values"].shape == self.stack.shape:
            arrays["values"] = arrays["values"][self.number]
        return arrays

    def _selection(self, rows: Index, columns: Index) -> Selection:
        return Selection(self.stack.shape, self.scheme.transposed, rows, columns, self.number)

    @cached_property
    def product(self) -> kernels.Product:
        """This matrix, ready for the kernels; of the extent only its own bytes are read."""
        high = self.matrix_shape[0]
        rows = range(self.number * high, (self.number + 1) * high)
        with self._named():
            extent = self._bytes if self._model.residency == "mmap" else self.extent()
            return kernels.Product(self.scheme, self._coded_shape, self.parameters, self.checked, extent, rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return Member, (self.stack, self.number)

    def __repr__(self) -> str:
        return f"<qformat.Member {self.number} of {self.stack!r}>"
