"""`ls`: a least-squares search for scale and offset, the default.

    weight = scale · code + offset,   code from −2^(b−1) to 2^(b−1) − 1   (symmetric: no offset, the scale has a sign)

The search of llama.cpp's k-quants (trial ranges around the group's own, each refined by least squares), widened to
ranges that clip, and followed from its two best points by alternating least squares: fix the codes, solve for scale
and offset, round again, while the error falls. Signed codes put the offset at the middle of the group, where float16
is fine enough even for 8 bits. The offset is found again against the stored scale, the codes against both as stored.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qformat.converters.methods import affine, lanes, native
from qformat.converters.methods.base import Array, Coded, Kernel, Option, Options, Shape, State
from qformat.converters.methods.lanes import Groups
from qformat.schemes import Scheme

# Trial ranges, in code steps clipped from each end (negative: range to spare), and as shares of the range at its mean.
CLIPS = (-0.4, 0.0, 0.5, 1.0)
SHRINKS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SYMMETRIC_CLIPS = (-0.4, -0.2, 0.0, 0.25, 0.5, 0.75, 1.0)
ROUNDS = 6
FINALISTS = 2


class Fit(NamedTuple):
    """A map from codes to weights and the squared error that it leaves (float64); all (n, G, 1, 1)."""

    scale: Array
    offset: Array
    error: Array


def choose(condition: Array, new: Fit, old: Fit) -> Fit:
    """The new fit where the condition holds."""
    return Fit(*(np.where(condition, a, b) for a, b in zip(new, old, strict=True)))


def round_codes(groups: Groups, fit: Fit, bits: int) -> tuple[Array, Array]:
    """Codes, and what is left of the weights in code steps; zero outside the group."""
    n = 2.0 ** (bits - 1)
    steps = (groups.x - fit.offset) * lanes.inverse(fit.scale)
    codes = lanes.nearest(lanes.clip(steps, -n, n - 1))
    return codes * groups.mask, (steps - codes) * groups.mask


def refit(groups: Groups, fit: Fit, bits: int, symmetric: bool) -> Fit:
    """Round, then the least-squares scale and offset of those codes (in float64 from float32 sums)."""
    codes, rest = round_codes(groups, fit, bits)
    ll, rl, rr = (lanes.total(a * b).astype(np.float64) for a, b in ((codes, codes), (rest, codes), (rest, rest)))
    scale = fit.scale.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        if symmetric:
            slope, shift = np.where(ll > 0, rl / ll, 0.0), np.zeros_like(ll)
            left = rr - slope * rl
        else:
            count = groups.sizes[:, None, None]
            l, r = lanes.total(codes).astype(np.float64), lanes.total(rest).astype(np.float64)  # noqa: E741
            determinant = count * ll - l * l
            slope = np.where(determinant > 0, (count * rl - l * r) / determinant, 0.0)
            shift = (r - slope * l) / count
            left = rr - shift * r - slope * rl
    turned = slope <= -0.9  # a scale that would vanish or change its sign: keep the one we have
    slope, shift, left = np.where(turned, 0.0, slope), np.where(turned, 0.0, shift), np.where(turned, rr, left)
    new_scale, new_offset = scale * (1.0 + slope), fit.offset.astype(np.float64) + scale * shift
    error = np.maximum(left, 0.0) * (scale * scale)
    return Fit(new_scale.astype(np.float32), new_offset.astype(np.float32), error)


def finish(groups: Groups, fit: Fit, bits: int, symmetric: bool, dtype: str) -> tuple[Fit, Array]:
    """The fit as stored, its codes, and its error; infinite where the scale underflows."""
    scale = lanes.store(fit.scale, dtype)
    offset = fit.offset
    if not symmetric:
        _, rest = round_codes(groups, Fit(scale, offset, fit.error), bits)
        shift = lanes.total(rest).astype(np.float64) / groups.sizes[:, None, None]
        moved = (offset.astype(np.float64) + scale.astype(np.float64) * shift).astype(np.float32)
        offset = lanes.store(np.where(scale == 0, mean(groups), moved), dtype)
    codes, rest = round_codes(groups, Fit(scale, offset, fit.error), bits)
    wide = scale.astype(np.float64)
    error = np.where(scale == 0, np.inf, lanes.total(rest * rest).astype(np.float64) * (wide * wide))
    return Fit(scale, offset, error), codes


def mean(groups: Groups) -> Array:
    """Mean weight of each group, float32 (n, G, 1, 1)."""
    return (lanes.total(groups.x).astype(np.float64) / groups.sizes[:, None, None]).astype(np.float32)


def starts(groups: Groups, bits: int, symmetric: bool) -> list[tuple[Array, Array]]:
    """Trial (scale, offset) pairs, float32, in the order in which they are tried."""
    n = np.float32(2 ** (bits - 1))
    low, high = groups.low, groups.high
    if symmetric:
        first = np.where(high > -low, -high, -low)  # the sign that gives the largest magnitude the longer side
        scales = [sign * first / (n + np.float32(clip)) for clip in SYMMETRIC_CLIPS for sign in (1, -1)]
        scales += [sign * (first / n) * np.float32(share) for share in SHRINKS for sign in (1, -1)]
        return [(scale.astype(np.float32), np.zeros_like(low)) for scale in scales]
    pairs, most = [], 2 * n - 1
    for below in CLIPS:
        for above in CLIPS:
            step = np.float32(1.0) / (most + np.float32(below) + np.float32(above))
            scale = high * step - low * step
            pairs.append((scale, low + scale * (n + np.float32(below))))
    step, middle = np.float32(1.0) / most, mean(groups)
    for share in SHRINKS:
        scale = (high * step - low * step) * np.float32(share)
        pairs.append((scale, middle + scale * np.float32(0.5)))
    return pairs


def search(groups: Groups, bits: int, symmetric: bool, dtype: str) -> tuple[Fit, Array]:
    """The best stored fit of every group and its codes; groups must have a range."""
    nothing = np.full((*groups.x.shape[:2], 1, 1), np.inf)
    best = [Fit(np.ones_like(groups.low), np.zeros_like(groups.low), nothing)] * FINALISTS
    for scale, offset in starts(groups, bits, symmetric):
        new = refit(groups, Fit(scale, offset, nothing), bits, symmetric)
        first, second = new.error < best[0].error, new.error < best[1].error
        best = [choose(first, new, best[0]), choose(first, best[0], choose(second, new, best[1]))]
    stored: tuple[Fit, Array] | None = None
    for fit in best:
        active = np.ones_like(nothing, bool)
        for _ in range(ROUNDS):
            new = refit(groups, fit, bits, symmetric)
            active &= new.error < fit.error
            fit = choose(active, new, fit)
        new, codes = finish(groups, fit, bits, symmetric, dtype)
        if stored is None:
            stored = new, codes
        else:
            better = new.error < stored[0].error
            stored = choose(better, new, stored[0]), np.where(better, codes, stored[1])
    assert stored is not None
    return stored


@np.errstate(all="ignore")  # what overflows is refused by the caller; groups without a range are replaced
def ls_loop(weight: Array, group: int, bits: int, symmetric: bool, dtype: str) -> tuple[Array, Array, Array, Array]:
    """Twin of the native loop: codes int8 (n, K), scales and offsets float32 (n, G) as stored, row errors (n, 3)."""
    groups = lanes.cut(weight, group)
    low, high = groups.low, groups.high
    fit, codes = search(groups, bits, symmetric, dtype)
    if symmetric:
        flat = np.maximum(high, -low) < lanes.SMALLEST_RANGE
        scale, offset = np.where(flat, np.float32(0), fit.scale), np.zeros_like(low)
        codes = np.where(scale == 0, np.float32(0), codes)
    else:
        flat = high - low < lanes.SMALLEST_RANGE
        one = lanes.store(low, dtype)
        rest = lanes.store(one - low, dtype)  # what float16 lost of the one value, taken away by code −1
        scale, offset = np.where(flat, rest, fit.scale), np.where(flat, one, fit.offset)
        codes = np.where(flat, np.where(rest == 0, np.float32(0), np.float32(-1)), codes)
    rows = lanes.measure(groups, scale * codes + offset)
    return lanes.paste(groups, codes).astype(np.int8), scale[:, :, 0, 0], offset[:, :, 0, 0], rows


def scheme(options: Options, shape: Shape, dtype: str) -> Scheme:
    """Affine groups of one row, signed codes; offsets unless symmetric."""
    return affine.affine_scheme("ls", options, shape, signed=True, third=None if options["symmetric"] else "offsets")


def code(weight: Array, options: Options, state: State) -> Coded:
    """See the module."""
    bits, symmetric, dtype = options["bits"], bool(options["symmetric"]), options["scale_dtype"]
    loop = native.loop("ls", ls_loop)
    codes, scales, offsets, rows = loop(weight, affine.group_length(options, weight.shape), bits, symmetric, dtype)
    arrays = {"codes": codes, "scales": affine.narrow("scale", scales, dtype)}
    if not symmetric:
        arrays["offsets"] = affine.narrow("offset", offsets, dtype)
    return Coded(scheme(options, weight.shape, ""), (), arrays, rows)


def kernel(options: Options) -> Kernel:
    """See `Kernel`."""
    symmetric = bool(options["symmetric"])
    return Kernel("ls", third=None if symmetric else "offsets", symmetric=symmetric)


METHOD = affine.method(
    name="ls",
    options={**affine.AFFINE_OPTIONS, "symmetric": Option(False, (False, True))},
    scheme=scheme,
    code=code,
    kernel=kernel,
)
