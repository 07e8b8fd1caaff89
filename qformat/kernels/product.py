"""y = W x of a whole weight: transforms of the input, the coded matrix, transforms of the output, corrections."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat import corrections, linear, transforms
from qformat.codings.panel import ROWS
from qformat.codings.parts import Arrays, Buffer, whole
from qformat.corrections import Correction, LowRank, Outliers
from qformat.errors import KernelError
from qformat.kernels import operand
from qformat.kernels.operand import Mode, Operand
from qformat.linear import Scheme
from qformat.transforms import Scale

Floats = NDArray[np.float32]


class Product:
    """A weight (N, K) made ready for products.

    Args:
        scheme, shape, parameters: what the record says.
        arrays: every role, checked (`linear.secure`); what indexes something must be a private copy.
        extent: the stored bytes, which must stay alive and unchanged; panels are read in place.
        rows: of the weight, where it is not all of them: output transforms must not mix rows then.
    """

    def __init__(
        self,
        scheme: Scheme,
        shape: tuple[int, int],
        parameters: tuple[int, ...],
        arrays: Arrays,
        extent: Buffer,
        rows: range | None = None,
    ) -> None:
        self._rows = range(shape[0]) if rows is None else rows
        self.scheme, self.shape, self._arrays = scheme, (len(self._rows), shape[1]), arrays
        coded = linear.coded_shape(scheme, shape, parameters)
        places = linear.layout(scheme, shape, parameters).places
        place, part = places.get("panels") or places.get("values"), operand.stretch(scheme.coding, coded, self._rows)
        body = None
        if place is not None and part is not None:
            body = extent[place.offset + part.start : place.offset + part.stop]
        self.operand: Operand = operand.prepare(scheme.coding, coded, arrays, body, self._rows)
        threshold = scheme.activations.outlier_threshold if scheme.activations is not None else None
        self._threshold = threshold or None
        self._bare = not (scheme.transforms or scheme.output_transforms or scheme.corrections or self._threshold)
        # what `matvecs` takes; None where the product is more than that of the panels
        native = self.operand.native
        self.panels = native if self._bare and isinstance(native, operand.Panels) else None
        self._widths = [size[1] for size in linear.transform_sizes(scheme, shape, parameters)]

    def takes_batches(self, dtype: str, kernel: str) -> bool:
        """Whether `exact` products with many rows of x read the codes once for all of them, not for every eight."""
        native = isinstance(self.operand.native, operand.Panels) and not self.scheme.transforms
        return native and dtype == "bfloat16" and kernel == "avx512" and "avx512bf16" in operand.FEATURES

    def matvec(self, x: NDArray[Any], mode: Mode, kernel: str, rounded: bool = False) -> Floats:
        """x (batch, K) of float32, float16 or bfloat16 to y (batch, N) float32; `rounded` as for `Operand.matvec`."""
        if self._bare:
            return self.operand.matvec(x, mode, kernel, rounded)
        y = self._coded(self._before(x), mode, kernel, rounded)
        for number in reversed(range(len(self.scheme.output_transforms))):
            its = self._under(f"output_transforms.{number}")
            if isinstance(self.scheme.output_transforms[number], Scale):
                its = {"scales": whole(its["scales"])[self._rows.start : self._rows.stop]}
            y = transforms.multiply(y, self.scheme.output_transforms[number], its, self.shape[0])
        if self._corrections:
            values = x.astype(np.float32)
            for correction, ready in self._corrections:
                y += _corrected(correction, ready, values)
        return y

    def decode_panels(self, first: int, last: int, out: NDArray[Any], kernel: str) -> bool:
        """Rows 16·first … of the weight, up to the end of panel `last` − 1 (or the last row), into `out`.

        Args:
            out: (rows, K), C-contiguous, float32, float16 or bfloat16.

        Returns:
            Whether it was done; only a native weight without transforms and corrections decodes here.
        """
        scheme, native = self.scheme, self.operand.native
        around = scheme.transforms or scheme.output_transforms or scheme.corrections
        if around or kernel == "reference" or native is None or isinstance(native, np.ndarray):
            return False
        rows = min(last * ROWS, self.shape[0]) - first * ROWS
        if out.shape != (rows, self.shape[1]):
            raise KernelError("out has the wrong shape", expected=(rows, self.shape[1]), found=out.shape)
        operand.decode_into(kernel, native, first, last, out)
        return True

    def _coded(self, x: NDArray[Any], mode: Mode, kernel: str, rounded: bool) -> Floats:
        """The coded matrix. In `int8` with an outlier threshold, large inputs are multiplied exactly (LLM.int8)."""
        if mode == "int8" and self._threshold is not None:
            outlying = np.abs(x.astype(np.float32)) >= self._threshold
            if outlying.any():
                zero = x.dtype.type(0)
                rest = self.operand.matvec(np.where(outlying, zero, x), "int8", kernel)
                return rest + self.operand.matvec(np.where(outlying, x, zero), "exact", kernel)
        return self.operand.matvec(x, mode, kernel, rounded)

    def _before(self, x: NDArray[Any]) -> NDArray[Any]:
        """Input transforms, computed in float64 and rounded once; without any, x as it is."""
        if not self.scheme.transforms:
            return x
        vector = x.astype(np.float64)
        for number, transform in enumerate(self.scheme.transforms):
            vector = transforms.apply(transform, self._under(f"transforms.{number}"), vector, self._widths[number])
        return vector.astype(np.float32)

    def _under(self, prefix: str) -> Arrays:
        return {name[len(prefix) + 1 :]: a for name, a in self._arrays.items() if name.startswith(f"{prefix}.")}

    @cached_property
    def _corrections(self) -> list[tuple[Correction, dict[str, NDArray[Any]]]]:
        """Corrections of these rows with their arrays as float32 and intp: small, so made ready once."""
        found = []
        for number, correction in enumerate(self.scheme.corrections):
            arrays = corrections.rows(correction, self._under(f"corrections.{number}"), self._rows)
            floats = ("a", "b", "values")
            ready = {name: a.astype(np.float32 if name in floats else np.intp) for name, a in arrays.items()}
            found.append((correction, ready))
        return found


def _corrected(correction: Correction, arrays: dict[str, NDArray[Any]], x: Floats) -> Floats:
    """What a correction adds to y, for x (batch, K)."""
    if isinstance(correction, LowRank):
        return np.asarray((x @ arrays["a"].T) @ arrays["b"].T, np.float32)
    if isinstance(correction, Outliers):
        pointers = arrays["row_pointers"]
        products = x[:, arrays["columns"]] * arrays["values"]
        # reduceat needs a start inside of the array for every row; empty rows are put right afterwards
        sums = np.add.reduceat(np.pad(products, ((0, 0), (0, 1))), pointers[:-1], axis=1)
        return np.asarray(np.where(pointers[1:] > pointers[:-1], sums, 0), np.float32)
    return np.asarray(x[:, arrays["columns"]] @ arrays["values"].T, np.float32)
