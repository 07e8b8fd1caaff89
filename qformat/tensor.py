"""One weight of a file: what the index says about it, its arrays, its numbers, its products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from qformat import container, decoding, kernels, linear
from qformat.codings.grammar import Affine, Block, Comb, Dense, Flat, Lookup
from qformat.codings.parts import Part, whole
from qformat.dtypes import TABLE as DTYPES
from qformat.dtypes import numpy_dtype
from qformat.errors import InvalidFileError, QFormatError
from qformat.schemes import Scheme
from qformat.selection import Index, Selection

if TYPE_CHECKING:
    from qformat.store import Model


class _Extent:
    """The bytes of a tensor's extent, read and checked only where they are asked for."""

    def __init__(self, source: container.Container, name: str) -> None:
        self.source, self.name = source, name

    def __getitem__(self, key: slice) -> NDArray[np.uint8]:
        return self.source.read(self.name, key.start, key.stop)


class Tensor:
    """One weight of a file."""

    def __init__(self, model: Model, name: str) -> None:
        self._model, self.name = model, name
        self.record = model.container.record(name)
        # what is stored; an alias stands for another tensor
        self._stored = model.container.record(self.record.target) if self.record.target is not None else self.record

    # -- what the index says -------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that it has in the source."""
        return self._stored.shape

    @property
    def dtype(self) -> str:
        """The dtype that it had in the source."""
        return self._stored.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its extent, before compression."""
        return self._stored.length

    @property
    def bits_per_weight(self) -> float | None:
        """Bits of its extent for each element; None if it has no elements."""
        count = prod(self.shape)
        return 8 * self.nbytes / count if count else None

    @property
    def error(self) -> float | None:
        """Frobenius norm of the difference from the source, relative to the source's; None if it was not measured."""
        return self._stored.error

    @property
    def max_error(self) -> float | None:
        """Largest absolute difference from the source; None if it was not measured."""
        return self._stored.max_error

    @cached_property
    def scheme(self) -> Scheme:
        """How it decodes."""
        with self._named():
            return self._model.scheme(self._stored.scheme)

    @property
    def coding(self) -> str:
        """The name of its coding."""
        return str(type(self.scheme.coding).__struct_config__.tag)

    @property
    def method(self) -> str | None:
        """The method that made it."""
        return self.scheme.method

    @property
    def bits(self) -> int | None:
        """Bits of a code; None for dense tensors and where codes have several widths."""
        return getattr(self.scheme.coding, "bits", None)

    @property
    def group_size(self) -> int | None:
        """Inputs that share a scale; None for whole rows, blocks of several rows, maps and dense tensors."""
        coding = self.scheme.coding
        if not isinstance(coding, Affine | Lookup) or coding.scales is None:
            return None
        group = coding.group
        if isinstance(group, Flat | Comb):
            return group.size
        return group.columns if isinstance(group, Block) and group.rows == 1 else None

    @cached_property
    def matrix_shape(self) -> tuple[int, int]:
        """(out_features, in_features): the matrix that a product uses."""
        return linear.matrix_shape(self.shape, self.scheme.transposed)

    @property
    def _coded_shape(self) -> tuple[int, int]:
        """The matrix that the extent holds."""
        return self.matrix_shape

    @property
    def can_slice_rows(self) -> bool:
        """Whether rows can be decoded without the others."""
        return not linear.mixes_rows(self.scheme)

    @property
    def parameters(self) -> tuple[int, ...]:
        """The numbers of the record that depend on the data."""
        return tuple(self._stored.parameters)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tensor, (self._model, self.name)

    def __repr__(self) -> str:
        return f"<qformat.Tensor {self.name!r} {self.shape} {self.dtype}, {self.nbytes} bytes>"

    # -- arrays --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors that come from below say which file and tensor they are about."""
        try:
            yield
        except QFormatError as error:
            self._name(error)
            raise

    def _name(self, error: QFormatError) -> None:
        error.file = error.file or self._model.path
        error.tensor = error.tensor or self.name

    @cached_property
    def _bytes(self) -> _Extent:
        return _Extent(self._model.container, self._stored.name)

    @cached_property
    def _parts(self) -> dict[str, Part]:
        """Every role, unread; the extent must be exactly as long as its scheme says."""
        with self._named():
            extent = linear.layout(self.scheme, self._coded_shape, self.parameters)
            if extent.length != self._stored.length:
                raise InvalidFileError(
                    "the extent does not fit scheme and shape",
                    field="length",
                    expected=extent.length,
                    found=self._stored.length,
                )
            return linear.parts(self.scheme, self._coded_shape, self.parameters, self._bytes)

    @cached_property
    def checked(self) -> dict[str, NDArray[Any] | Part]:
        """Every role, with what indexes something replaced by a checked private copy. Checked once."""
        with self._named():
            return linear.secure(self.scheme, self._coded_shape, self.parameters, self._parts)

    def extent(self) -> NDArray[np.uint8]:
        """The bytes of the extent, where the model's residency keeps them."""
        with self._named():
            return self._model.extent(self._stored.name)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Role → array, plain row-major whatever the layout, nested roles dotted; views where that is possible."""
        with self._named():
            arrays = {name: whole(part) for name, part in self.checked.items()}
        if isinstance(self.scheme.coding, Dense) and not self.scheme.transforms and not self.scheme.transposed:
            arrays["values"] = arrays["values"].reshape(self.shape)
        return arrays

    # -- numbers -------------------------------------------------------------------------------------------------------

    def decode(
        self,
        dtype: DTypeLike = "float32",
        rows: Index = None,
        columns: Index = None,
        *,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """The weights in the source's shape, transforms and corrections included.

        Args:
            dtype: of the result; weights are computed in float32 and cast. Tensors that are only stored are cast
                from their own dtype.
            rows: which of the first dimension, a slice or a 1-D array of integers.
            columns: which of the last dimension.
            out: where to put the result, C-contiguous, of its shape and dtype. Memory that has been written before
                costs a fraction of new memory, which the system clears first.

        Raises:
            UnsupportedError: columns (or rows) of a tensor whose transforms mix them; complex numbers into real ones.
            InvalidFileError, IntegrityError, ChangedError: the file is damaged.
            IndexError, TypeError, ValueError: rows or columns make no sense for the shape, or `out` does not fit.
        """
        target = numpy_dtype(dtype) if isinstance(dtype, str) and dtype in DTYPES else np.dtype(dtype)
        selection = self._selection(rows, columns)
        with self._named():
            coded = decoding.Coded(self.scheme, self._coded_shape, self.parameters, self.checked, self._bytes)
            result = decoding.decode(coded, selection, target, out)
            self._model.container.guard()  # a file that changed meanwhile has not been decoded
        return result

    def _selection(self, rows: Index, columns: Index) -> Selection:
        return Selection(self.shape, self.scheme.transposed, rows, columns)

    def matvec(self, x: ArrayLike, mode: Literal["exact", "int8"] = "exact") -> NDArray[np.float32]:
        """y = W x without bias, float32.

        Args:
            x: (in_features,) or (batch, in_features) of float32, float16 or bfloat16, in the machine's byte order.
            mode: `exact` keeps the dtype of x and accumulates in float32; `int8` rounds x to eight bits per block, but
                for codings whose weights are decoded first: lattices, trellises, splits and plain layouts.

        Raises:
            ValueError, TypeError: the shape or dtype of x, or the mode.
        """
        vector = np.asarray(x)
        if mode not in ("exact", "int8"):
            raise ValueError(f"mode is {mode!r}, expected 'exact' or 'int8'")
        if kernels.float_type(vector.dtype) is None:
            raise TypeError(f"x is {vector.dtype}, expected float32, float16 or bfloat16")
        rows, inputs = self.matrix_shape
        if vector.ndim not in (1, 2) or vector.shape[-1] != inputs:
            raise ValueError(f"x has shape {vector.shape}, expected ({inputs},) or (batch, {inputs})")
        try:  # not `_named`: this call is timed in microseconds
            y = self.product.matvec(vector.reshape(1, inputs) if vector.ndim == 1 else vector, mode, kernels.active())
            self._model.container.guard()  # a file that changed meanwhile has not been multiplied with
        except QFormatError as error:
            self._name(error)
            raise
        return y.reshape(rows) if vector.ndim == 1 else y

    @cached_property
    def product(self) -> kernels.Product:
        """This weight, ready for the kernels: they read its extent in place."""
        with self._named():
            return kernels.Product(self.scheme, self.matrix_shape, self.parameters, self.checked, self.extent())

    @property
    def prepared(self) -> kernels.Product | None:
        """`product`, if somebody has asked for it before."""
        found: kernels.Product | None = self.__dict__.get("product")
        return found

    def guard(self) -> None:
        """ChangedError if the file is no longer what was opened: what was computed meanwhile is worth nothing."""
        self._model.container.guard()

    def check(self) -> None:
        """Every number that must be in range or finite is, and all padding is zero: reads everything.

        Raises:
            QFormatError: the first fault, with file, tensor and role.
        """
        with self._named():
            linear.check(self.scheme, self._coded_shape, self._parts, self.parameters)
            linear.check_padding(self.scheme, self._coded_shape, self.parameters, self._bytes)
