"""`hqq`: half-quadratic quantization (Badri and Shaji 2023, https://mobiusml.github.io/hqq_blog).

    weight = scale · (code − zero),   scale = (max − min) / (2^b − 1),   zero a float

The zero minimises Σ |weight − decoded|^p, p = 0.7, by half-quadratic splitting: with r = weight / scale + zero − code,

    e = sign(r) · max(|r| − |r|^(p−1) / β, 0),    zero ← zero + mean(e − r),    β ← κ · β.

Residuals are measured in code steps. The original measures them in units of the weight, where those of a language model
are far too small for the shrinkage to let anything pass, so that β means something only here. The original also stops
when the mean error of the whole tensor rises, after two steps too many; here every group keeps its own best zero, and
goes on from there with e = 0 (the original's effective step, the least-squares zero of fixed codes).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qformat.converters.methods import affine, lanes, native
from qformat.converters.methods.base import Array, Coded, Kernel, Option, Options, Shape, State
from qformat.converters.methods.ls import mean
from qformat.schemes import Scheme

# log2(1.5 + u) and 2^u for |u| ≤ 1/2: Chebyshev interpolants, lowest power first; together good to 1e-4.
LOG2 = (0.5849624872207642, 0.9609739780426025, -0.32013946771621704, 0.15538813173770905, -0.07844067364931107)
EXP2 = (0.9999245405197144, 0.6931367516517639, 0.2426394820213318, 0.05583828315138817)

# A zero is not moved further once it moves by less than this, in code steps.
_SETTLED = 2.0**-9
# Beyond these zeros a float type has no fractions of a code left; one value per group is then compared, or taken.
_FAR = np.float32(1024)
_LARGEST_ZERO = {"float16": np.float32(60000), "float32": np.float32(2.0**21)}


def power(base: Array, exponent: float) -> Array:
    """base^exponent of non-negative float32, in float32 steps that are the same everywhere; of 0 some finite number."""
    bits = np.ascontiguousarray(base, dtype=np.float32).view(np.int32)
    whole = ((bits >> 23) - 127).astype(np.float32)
    part = ((bits & 0x7FFFFF) | 0x3F800000).view(np.float32) - np.float32(1.5)
    logarithm = (whole + _horner(LOG2, part)) * np.float32(exponent)
    whole = lanes.nearest(logarithm)
    scale = ((whole.astype(np.int32) + 127) << 23).view(np.float32)
    return scale * _horner(EXP2, logarithm - whole)


def _horner(coefficients: tuple[float, ...], x: Array) -> Array:
    value = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + np.float32(coefficient)
    return value


def shrink(residual: Array, inverse_beta: Array | float, lp: float) -> Array:
    """The proximal step of |·|^p with weight β: residuals that are not outliers become zero."""
    size = np.abs(residual)
    less = size - power(size, lp - 1.0) * np.float32(inverse_beta)
    return np.copysign(np.maximum(less, np.float32(0)), residual)


def solve(
    groups: lanes.Groups, steps: Array, zero: Array, most: float, lp: float, beta: float, kappa: float, iterations: int
) -> Array:
    """The best zero of every group, float32 (n, G, 1, 1), from `zero`; `steps` are the weights in code steps."""
    best, lowest = zero, np.full_like(zero, np.inf)
    for splitting in (True, False):
        zero, moving = best if not splitting else zero, np.ones_like(zero, bool)
        for _ in range(iterations):
            place = steps + zero
            rest = (place - lanes.nearest(lanes.clip(place, 0, most))) * groups.mask
            error = lanes.total(rest * rest)
            better = moving & (error < lowest)
            best, lowest = np.where(better, zero, best), np.where(better, error, lowest)
            apart = shrink(rest, 1.0 / beta, lp) - rest if splitting else -rest
            move = lanes.total(apart).astype(np.float64) / groups.sizes[:, None, None]
            zero = (zero.astype(np.float64) + move).astype(np.float32)
            moving &= np.abs(move) > _SETTLED
            beta *= kappa
    return best


@np.errstate(all="ignore")  # what overflows is refused by the caller; groups without a range are replaced
def hqq_loop(
    weight: Array, group: int, bits: int, dtype: str, lp: float, beta: float, kappa: float, iterations: int
) -> tuple[Array, Array, Array, Array]:
    """Twin of the native loop: codes uint8 (n, K), scales and zeros float32 (n, G) as stored, row errors (n, 3)."""
    groups = lanes.cut(weight, group)
    most, low, high, middle = np.float32(2**bits - 1), groups.low, groups.high, mean(groups)
    scale = lanes.store((high - low) / most, dtype)
    inverse = lanes.inverse(scale)
    steps, start = groups.x * inverse, -low * inverse
    single = (high - low < lanes.SMALLEST_RANGE) | (scale == 0) | (np.abs(start) > _LARGEST_ZERO[dtype])
    zero = solve(groups, steps, start, float(most), lp, beta, kappa, iterations)
    zero, codes = _store_zero(groups, steps, zero, most, dtype)
    one = lanes.store(np.where(high - low < lanes.SMALLEST_RANGE, low, middle), dtype)
    kept, apart = (steps - (codes - zero)) * groups.mask, (steps - one * inverse) * groups.mask
    single |= (np.abs(zero) > _FAR) & (lanes.total(apart * apart) < lanes.total(kept * kept))
    scale = np.where(single, one, scale)
    zero = np.where(single, np.where(one == 0, np.float32(0), np.float32(-1)), zero)
    codes = np.where(single, np.float32(0), codes)
    rows = lanes.measure(groups, scale * (codes - zero))
    return lanes.paste(groups, codes).astype(np.uint8), scale[:, :, 0, 0], zero[:, :, 0, 0], rows


def _store_zero(groups: lanes.Groups, steps: Array, zero: Array, most: Any, dtype: str) -> tuple[Array, Array]:
    """The best of three zeros that the type can store, and its codes: at 8 bits float16 has steps of 1/8 code."""
    unit = np.abs(zero) * np.float32(2.0**-10)
    best, codes, lowest = zero, steps, np.full_like(zero, np.inf)
    for trial in (zero, zero + unit, zero - unit):
        stored = lanes.store(trial, dtype)
        its_codes = lanes.nearest(lanes.clip(steps + stored, 0, most))
        rest = (steps - (its_codes - stored)) * groups.mask
        error = lanes.total(rest * rest)
        better = error < lowest
        best, lowest = np.where(better, stored, best), np.where(better, error, lowest)
        codes = np.where(better, its_codes, codes)
    return best, codes


def scheme(options: Options, shape: Shape, dtype: str) -> Scheme:
    """Affine groups of one row, unsigned codes, float zeros of the scales' type."""
    return affine.affine_scheme("hqq", options, shape, signed=False, third="zeros")


def code(weight: Array, options: Options, state: State) -> Coded:
    """See the module."""
    dtype, group = options["scale_dtype"], affine.group_length(options, weight.shape)
    solver = kernel(options).solver
    codes, scales, zeros, rows = native.loop("hqq", hqq_loop)(weight, group, options["bits"], dtype, *solver)
    scales, zeros = affine.narrow("scale", scales, dtype), affine.narrow("zero", zeros, dtype)
    return Coded(scheme(options, weight.shape, ""), (), {"codes": codes, "scales": scales, "zeros": zeros}, rows)


def kernel(options: Options) -> Kernel:
    """See `Kernel`."""
    numbers = (float(options["lp"]), float(options["beta"]), float(options["kappa"]), options["iterations"])
    return Kernel("hqq", third="zeros", solver=numbers)


METHOD = affine.method(
    name="hqq",
    options={
        **affine.AFFINE_OPTIONS,
        "lp": Option(0.7, lambda value: isinstance(value, float | int) and 0 < value <= 1, "above 0, at most 1"),
        "beta": Option(10.0, lambda value: isinstance(value, float | int) and 0 < value < 1e6, "a positive number"),
        "kappa": Option(1.01, lambda value: isinstance(value, float | int) and 1 <= value < 100, "1 or more"),
        "iterations": Option(20, lambda value: type(value) is int and 1 <= value <= 1000, "1 to 1000"),
    },
    scheme=scheme,
    code=code,
    kernel=kernel,
)
