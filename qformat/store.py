"""A file as a mapping of tensors: introduces the container, the codings and the kernels to each other.

The container says whether bytes are sound; `linear` says what numbers they mean. Nothing is read until it is touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from math import prod
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from qformat import container, kernels, linear
from qformat.codings.grammar import Affine, Block, Comb, Dense, Flat, Lookup
from qformat.codings.panel import ROWS
from qformat.codings.parts import Part, Window, whole
from qformat.dtypes import TABLE as DTYPES
from qformat.dtypes import numpy_dtype
from qformat.errors import InvalidFileError, QFormatError, UnsupportedError
from qformat.linear import Scheme
from qformat.residency import HugePages, Residency
from qformat.selection import Selection

# Weights decoded at a time: what decoding needs beside its result stays below 64 MiB.
TILE = 1 << 20

# Bytes of a line of the cache.
LINE = 64

Path = str | os.PathLike[str]
Index = slice | Sequence[int] | NDArray[Any] | None


def open(path: Path, *, residency: Residency = "mmap") -> Model:
    """Open a .qf file, local or remote.

    Args:
        path: of the file, or its URL.
        residency: where products read: `mmap`, in the file's mapping, or `hugepages`, in copies on pages of 2 MiB
            that are made at a tensor's first use and belong to this process alone.

    Raises:
        ValueError: no such residency.
        QFormatError: the file is not one, is damaged, or needs a newer reader.
        OSError: it cannot be opened.
    """
    return Model(path, residency)


class Model(Mapping[str, "Tensor"]):
    """The tensors of a file, in its order, by their full names. Close it, or use it in a `with` statement."""

    def __init__(self, path: Path, residency: Residency = "mmap") -> None:
        if residency not in get_args(Residency):
            raise ValueError(f"residency is {residency!r}, expected one of {', '.join(get_args(Residency))}")
        self.path, self.residency = os.fspath(path), residency
        self.container = container.open(self.path)
        self._copies = HugePages(self.container) if residency == "hugepages" else None
        self._schemes: dict[int, Scheme] = {}
        self._tensors: dict[str, Tensor] = {}

    @property
    def metadata(self) -> dict[str, Any]:
        """What the file says about itself: general.*, qformat.*, and whatever a source added."""
        return self.container.metadata

    @property
    def attachments(self) -> Mapping[str, bytes]:
        """Files that came with the model, by name."""
        return self.container.attachments

    @property
    def digest(self) -> str:
        """BLAKE3 over everything in the file, hexadecimal."""
        return self.container.digest

    @property
    def content_digest(self) -> str:
        """BLAKE3 over names, shapes, schemes and tensor bytes; edits of metadata do not change it."""
        return self.container.content_digest

    def scheme(self, number: int) -> Scheme:
        """A parsed scheme of the file's list.

        Raises:
            UnsupportedError, InvalidFileError: it cannot be understood; other tensors of the file still can.
        """
        if number not in self._schemes:
            self._schemes[number] = linear.parse(self.container.schemes[number])
        return self._schemes[number]

    def extent(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor's extent, where `residency` keeps them: a view if they are stored raw."""
        return self.container.read(name) if self._copies is None else self._copies.read(name)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            if name not in self.container:
                raise KeyError(name)
            tensor = self._tensors[name] = Tensor(self, name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.container.names())

    def __len__(self) -> int:
        return len(self.container)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.container

    def close(self) -> None:
        """Give mapping and copies back; tensors of this model cannot be read any more."""
        self._tensors.clear()
        self._copies = None
        self.container.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Model], tuple[str, Residency]]:
        return Model, (self.path, self.residency)

    def __repr__(self) -> str:
        return f"<qformat.Model {self.path!r}, {len(self)} tensors>"


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
        """Bits of a code."""
        coding = self.scheme.coding
        return None if isinstance(coding, Dense) else coding.bits

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
    def can_slice_rows(self) -> bool:
        """Whether rows can be decoded without the others."""
        return not linear.mixes_rows(self.scheme)

    @property
    def parameters(self) -> tuple[int, ...]:
        """The numbers of the record that depend on the data."""
        return tuple(self._stored.parameters)

    def __reduce__(self) -> tuple[type[Tensor], tuple[Model, str]]:
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
    def _parts(self) -> dict[str, Part]:
        """Every role, unread; the extent must be exactly as long as its scheme says."""
        with self._named():
            extent = linear.layout(self.scheme, self.matrix_shape, self.parameters)
            if extent.length != self._stored.length:
                raise InvalidFileError(
                    "the extent does not fit scheme and shape",
                    field="length",
                    expected=extent.length,
                    found=self._stored.length,
                )
            buffer = _Extent(self._model.container, self._stored.name)
            return linear.parts(self.scheme, self.matrix_shape, self.parameters, buffer)

    @cached_property
    def checked(self) -> dict[str, NDArray[Any] | Part]:
        """Every role, with what indexes something replaced by a checked private copy. Checked once."""
        with self._named():
            return linear.secure(self.scheme, self.matrix_shape, self.parameters, self._parts)

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
        selection = Selection(self.shape, self.scheme.transposed, rows, columns)
        if out is not None:
            _check_out(out, selection.shape, target)
        with self._named():
            if selection.some_columns and linear.mixes_columns(self.scheme):
                raise UnsupportedError("its transforms mix columns, so it has no column slices", field="transforms")
            if selection.some_rows and linear.mixes_rows(self.scheme):
                raise UnsupportedError("its output transforms mix rows, so it has no row slices", field="transforms")
            if out is None or self.scheme.transposed:
                matrix = _in_lines(selection.matrix_shape, target)
            else:
                matrix = out.reshape(selection.matrix_shape)
            if matrix.size:
                self._decode_matrix(selection, matrix)
            self._model.container.guard()  # a file that changed meanwhile has not been decoded
        result = selection.restore(matrix)
        if out is None:
            return result
        if self.scheme.transposed:
            out[...] = result
        return out

    def _decode_matrix(self, selection: Selection, out: NDArray[Any]) -> None:
        """What is selected of the matrix, in tiles, into `out`."""
        if not (selection.some_rows or selection.some_columns) and self._decode_natively(out):
            return
        most = _tile_rows(self.matrix_shape[1]) if linear.row_local(self.scheme) else self.matrix_shape[0]
        for tile in selection.tiles(most):
            out[tile.into] = self._decode_window(tile.window, out.dtype)[tile.rows][:, selection.inside]

    def _decode_window(self, window: Window, target: np.dtype[Any]) -> NDArray[Any]:
        """A rectangle of the matrix as `target`."""
        scheme = self.scheme
        if isinstance(scheme.coding, Dense) and not (
            scheme.transforms or scheme.output_transforms or scheme.corrections
        ):
            values = self._parts["values"].window(window)
            if values.dtype.kind == "c" and target.kind != "c":
                raise UnsupportedError("complex numbers do not decode into real ones", field="dtype", found=str(target))
        else:
            if window[2:] == (0, self.matrix_shape[1]):
                rows = np.empty((window.bottom - window.top, window.right), target)
                if self._decode_natively(rows, window.top):
                    return rows
            values = linear.decode(scheme, self.matrix_shape, self.checked, window, self.parameters)
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(target, copy=False)

    def _decode_natively(self, out: NDArray[Any], top: int = 0) -> bool:
        """Rows from `top` on into `out` by the kernels, which give the same numbers; whether they can."""
        scheme, shape = self.scheme, self.matrix_shape
        start = linear.layout(scheme, shape, self.parameters).places.get("panels")
        if start is None or scheme.transforms or scheme.output_transforms or scheme.corrections:
            return False

        def read(first: int, last: int) -> NDArray[np.uint8]:
            return self._model.container.read(self._stored.name, start.offset + first, start.offset + last)

        # what they need beside the result is the codes, if these are compressed, and scales that are coded themselves
        step = 16 * _tile_rows(shape[1])
        for first in range(0, len(out), step):
            part = out[first : first + step]
            rows = range(top + first, top + first + len(part))
            if not kernels.decode_rows(scheme.coding, shape, self.checked, read, rows, part, kernels.active()):
                return False
        return True

    def matvec(self, x: ArrayLike, mode: Literal["exact", "int8"] = "exact") -> NDArray[np.float32]:
        """y = W x without bias, float32.

        Args:
            x: (in_features,) or (batch, in_features) of float32, float16 or bfloat16.
            mode: `exact` keeps the dtype of x and accumulates in float32; `int8` rounds x to eight bits per block.

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

    def guard(self) -> None:
        """ChangedError if the file is no longer what was opened: what was computed meanwhile is worth nothing."""
        self._model.container.guard()

    def check(self) -> None:
        """Every number that must be in range or finite is, and all padding is zero: reads everything.

        Raises:
            QFormatError: the first fault, with file, tensor and role.
        """
        with self._named():
            linear.check(self.scheme, self.matrix_shape, self._parts, self.parameters)
            buffer = _Extent(self._model.container, self._stored.name)
            linear.check_padding(self.scheme, self.matrix_shape, self.parameters, buffer)


def _check_out(out: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out is {out.dtype} {out.shape}, expected {dtype} {shape}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("out must be C-contiguous and writeable")


def _in_lines(shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A new array that starts with a line of the cache, as stores that pass it by need; small ones are as they come."""
    size = prod(shape) * dtype.itemsize
    if size < TILE or dtype.hasobject:
        return np.empty(shape, dtype)
    space = np.empty(size + LINE, np.uint8)
    start = -space.ctypes.data % LINE
    return space[start : start + size].view(dtype).reshape(shape)


def _tile_rows(inputs: int) -> int:
    """Rows decoded at a time: whole panels, if there is room for some."""
    rows = TILE // max(inputs, 1)
    return rows // ROWS * ROWS or max(rows, 1)


def verify(
    path: Path,
    *,
    names: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Callable[..., None] | None = None,
) -> None:
    """Check a file wholly: every hash, then that every number means something.

    Tensors that need a newer version are verified as bytes only.

    Raises:
        QFormatError: of the class of the first fault, naming every bad tensor; the single errors are its notes.
    """
    with open(path) as model:
        found = faults(model, names=names, workers=workers, progress=progress)
    if len(found) == 1:
        raise found[0]
    if found:
        places = ", ".join(dict.fromkeys(str(fault.tensor or fault.field) for fault in found))
        error = type(found[0])(f"{len(found)} faults: {places}", file=os.fspath(path), tensor=found[0].tensor)
        for fault in found:
            error.add_note(str(fault))
        raise error


def faults(
    model: Model,
    *,
    names: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Callable[..., None] | None = None,
) -> list[QFormatError]:
    """What `verify` raises, as a list: a fault for each bad tensor, and those of what lies between them."""
    found: list[QFormatError] = list(model.container.verify(names, workers=workers, progress=progress))
    bad = {fault.tensor for fault in found}
    listed = [name for name in (model if names is None else names) if name not in bad]
    own = [name for name in listed if model.container.record(name).target is None]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        found += [fault for fault in pool.map(lambda name: _fault(model[name]), own) if fault is not None]
    return found


def _fault(tensor: Tensor) -> QFormatError | None:
    """What is wrong with the numbers of a tensor."""
    try:
        tensor.check()
    except UnsupportedError:
        return None
    except QFormatError as error:
        return error
    return None
