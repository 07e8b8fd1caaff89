"""Native loops under the names and with the results of their twins: outputs are allocated here and filled there.

Every function takes what its twin takes and the number of threads, and gives the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qformat.dtypes import itemsize

if TYPE_CHECKING:
    from qformat.converters.methods.fused import Pass

Array = NDArray[Any]


class Bindings:
    """The loops of the extension module `native`, with an instruction set already selected."""

    def __init__(self, native: Any) -> None:
        self.native = native

    def largest(self, weight: Array, threads: int) -> float:
        return float(self.native.largest(weight, threads))

    def largest_bits(self, raw: Array, threads: int) -> int:
        return int(self.native.largest_bits(raw, threads))

    def widen(self, raw: Array, half: bool, threads: int) -> Array:
        out = np.empty(raw.shape, np.float32)
        self.native.widen(raw, half, out, threads)
        return out

    def halves(self, numbers: Array, threads: int) -> Array:
        out = np.empty(numbers.shape, np.uint16)
        self.native.halves(np.ascontiguousarray(numbers), out, threads)
        return out.view(np.float16)

    def extremes(self, weight: Array, group: int, limit: float, threads: int) -> tuple[float, float]:
        largest, small = self.native.extremes(weight, group, limit, threads)
        return float(largest), float(small)

    def rtn_symmetric(self, weight: Array, group: int, bits: int, dtype: str, threads: int) -> tuple[Array, ...]:
        codes, scales, errors = _outputs(weight, group)
        self.native.rtn_symmetric(weight, group, bits, dtype == "float16", codes, scales, errors, threads)
        return codes.view(np.int8), scales, errors

    def rtn_asymmetric(self, weight: Array, group: int, bits: int, dtype: str, threads: int) -> tuple[Array, ...]:
        codes, scales, errors = _outputs(weight, group)
        zeros = np.empty(scales.shape, np.uint8)
        self.native.rtn_asymmetric(weight, group, bits, dtype == "float16", codes, scales, zeros, errors, threads)
        return codes, scales, zeros, errors

    def ls(self, weight: Array, group: int, bits: int, symmetric: bool, dtype: str, threads: int) -> tuple[Array, ...]:
        codes, scales, errors = _outputs(weight, group)
        offsets = np.zeros_like(scales)
        self.native.ls(weight, group, bits, symmetric, dtype == "float16", codes, scales, offsets, errors, threads)
        return codes.view(np.int8), scales, offsets, errors

    def hqq(
        self,
        weight: Array,
        group: int,
        bits: int,
        dtype: str,
        lp: float,
        beta: float,
        kappa: float,
        iterations: int,
        threads: int,
    ) -> tuple[Array, ...]:
        codes, scales, errors = _outputs(weight, group)
        zeros, half = np.empty_like(scales), dtype == "float16"
        numbers = (lp, beta, kappa, iterations)
        self.native.hqq(weight, group, bits, half, *numbers, codes, scales, zeros, errors, threads)
        return codes, scales, zeros, errors

    def lookup(
        self, weight: Array, block: int, bounds: Array, table: Array, order: Array, threads: int
    ) -> tuple[Array, Array]:
        codes, scales = np.empty(weight.shape, np.uint8), np.empty(-(-weight.size // block), np.float32)
        self.native.lookup(weight, block, bounds, table[order], order, codes, scales, threads)
        return codes, scales

    def measure_lookup(
        self, weight: Array, block: int, table: Array, codes: Array, scales: Array, threads: int
    ) -> Array:
        errors, order = np.empty((len(weight), 3)), np.arange(16, dtype=np.uint8)
        scales = np.ascontiguousarray(scales).reshape(-1)
        bounds = np.zeros(15, np.float32)
        self.native.measure_lookup(weight, block, bounds, table, order, codes, scales, errors, threads)
        return errors

    def measure(self, weight: Array, decoded: Array, threads: int) -> Array:
        errors = np.empty((len(weight), 3))
        self.native.measure(weight, np.ascontiguousarray(decoded), errors, threads)
        return errors

    def scaled_rows(self, weight: Array, eetq: bool, dtype: str, threads: int) -> tuple[Array, Array, Array]:
        codes, scales, errors = _outputs(weight, max(weight.shape[1], 1))
        self.native.scaled_rows(weight, eetq, dtype == "float16", codes, scales, errors, threads)
        return codes.view(np.int8), scales, errors

    def slab(self, work: Pass, raw: Array, out: Array, threads: int) -> tuple[Array, tuple[float, float]] | None:
        errors, kernel, panels = np.empty((len(raw), 3)), work.kernel, work.panels
        beside = [(itemsize(role.dtype), role.bits or 0) for role in panels.beside.values()]
        found = self.native.slab(
            kernel.loop, _bytes(raw), raw.dtype.name, raw.shape[1], panels.group, panels.code.bits, panels.code.signed,
            work.half, kernel.symmetric, list(kernel.solver[:3]), kernel.solver[3], *work.table, work.limit,
            kernel.ceiling, beside, out, errors, threads,
        )  # fmt: skip
        return None if found is None else (errors, found)

    def pack_panels(
        self, codes: Array, group: int, bits: int, signed: bool, beside: list[tuple[Array, int, int]], out: Array,
        threads: int,
    ) -> None:  # fmt: skip
        headers = [(_bytes(array), array.itemsize, its_bits, bias) for array, its_bits, bias in beside]
        self.native.pack_panels(_bytes(codes).reshape(codes.shape), group, bits, signed, headers, out, threads)

    def pack_stream(self, codes: Array, bits: int, bias: int, threads: int) -> Array:
        out = np.empty((codes.size * bits + 7) // 8, np.uint8)
        self.native.pack_stream(_bytes(codes), bits, bias, out, threads)
        return out


def _bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _outputs(weight: Array, group: int) -> tuple[Array, Array, Array]:
    """Codes uint8 (n, K), scales float32 (n, G), errors float64 (n, 3), not yet filled."""
    rows, columns = weight.shape
    return (
        np.empty((rows, columns), np.uint8),
        np.empty((rows, -(-columns // group)), np.float32),
        np.empty((rows, 3)),
    )
