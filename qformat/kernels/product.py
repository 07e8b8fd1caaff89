"""y = W x of a whole weight: transforms of the input, the coded matrix, transforms of the output, corrections."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qformat import linear
from qformat.codings.panel import ROWS
from qformat.codings.parts import Arrays, Buffer
from qformat.errors import KernelError
from qformat.kernels import operand
from qformat.kernels.around import Around, around, sparse_product
from qformat.kernels.operand import Mode, Operand
from qformat.schemes import Scheme

Floats = NDArray[np.float32]


class Product:
    """A weight (N, K) made ready for products.

    Args:
        scheme, shape, parameters: what the record says.
        arrays: every role, checked (`linear.secure`); what indexes something must be a private copy.
        extent: the stored bytes, which must stay alive and unchanged; codes are read in place.
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

        def read(name: str, start: int, stop: int) -> NDArray[np.uint8]:
            first = places[name].offset
            return extent[first + start : first + stop]

        self.operand: Operand = operand.prepare(scheme.coding, coded, arrays, read, self._rows)
        threshold = scheme.activations.outlier_threshold if scheme.activations is not None else None
        self._threshold = threshold or None
        # whether the product is that of the coded matrix
        self.bare = not (scheme.transforms or scheme.output_transforms or scheme.corrections or self._threshold)
        # what `matvecs` takes; None where the product is more than that of the panels
        native = self.operand.native
        self.panels = native if self.bare and isinstance(native, operand.Panels) else None

    def takes_batches(self, dtype: str, kernel: str) -> bool:
        """Whether `exact` products with many rows of x read the codes once for all of them, not for every eight."""
        native = isinstance(self.operand.native, operand.Panels)
        multiplies = kernel == "amx" or (kernel == "avx512" and "avx512bf16" in operand.FEATURES)
        return native and dtype == "bfloat16" and multiplies

    def matvec(self, x: NDArray[Any], mode: Mode, kernel: str) -> Floats:
        """x (batch, K) of float32, float16 or bfloat16 to y (batch, N) float32."""
        if self.bare:
            return self.operand.matvec(x, mode, kernel)
        y = self.coded(self._before(x), mode, kernel)
        around = self.around if kernel != "reference" else replace(self.around, sparse=sparse_product)
        if around.outputs:
            y = around.after(y.astype(np.float64)).astype(np.float32)
        if around.corrections:
            around.correct(y, np.ascontiguousarray(x, np.float32))
        return y

    @cached_property
    def around(self) -> Around:
        """What surrounds the coded matrix."""
        return around(self.scheme, self._arrays, self._rows)

    def decodes(self, kernel: str) -> bool:
        """Whether `decode_panels` can serve: the weight is native."""
        return kernel != "reference" and isinstance(self.operand.native, operand.Native)

    def decode_panels(self, first: int, last: int, out: NDArray[Any], kernel: str) -> None:
        """Rows 16·first … of the coded matrix, up to the end of panel `last` − 1 (or the last row), into `out`.

        Args:
            out: (rows, K of the coded matrix), C-contiguous, float32, float16 or bfloat16.
        """
        native = self.operand.native
        expected = min(last * ROWS, self.shape[0]) - first * ROWS, self.operand.shape[1]
        if out.shape != expected:
            raise KernelError("out has the wrong shape", expected=expected, found=out.shape)
        assert isinstance(native, operand.Native)
        operand.decode_into(kernel, native, first, last, out)

    def coded(self, x: NDArray[Any], mode: Mode, kernel: str) -> Floats:
        """The coded matrix. In `int8` with an outlier threshold, large inputs are multiplied exactly (LLM.int8)."""
        if mode == "int8" and self._threshold is not None:
            outlying = np.abs(x.astype(np.float32)) >= self._threshold
            if outlying.any():
                zero = x.dtype.type(0)
                rest = self.operand.matvec(np.where(outlying, zero, x), "int8", kernel)
                return rest + self.operand.matvec(np.where(outlying, x, zero), "exact", kernel)
        return self.operand.matvec(x, mode, kernel)

    def _before(self, x: NDArray[Any]) -> NDArray[Any]:
        """Input transforms, computed in float64 and rounded once, to float32; an order only changes the order."""
        if self.around.only_moves:
            return np.asarray(self.around.before(x))
        return np.asarray(self.around.before(x.astype(np.float64)), np.float32)
