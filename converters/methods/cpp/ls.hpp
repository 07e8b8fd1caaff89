// Least-squares search for scale and offset: see ls.py, whose twin defines this loop.
#pragma once

#include "groups.hpp"

namespace QFORMAT_ISA {

constexpr float CLIPS[] = {-0.4f, 0.0f, 0.5f, 1.0f};
constexpr float SHRINKS[] = {0.3f, 0.4f, 0.5f, 0.6f, 0.7f, 0.8f, 0.9f};
constexpr float SYMMETRIC_CLIPS[] = {-0.4f, -0.2f, 0.0f, 0.25f, 0.5f, 0.75f, 1.0f};
constexpr float SIGNS[] = {1.0f, -1.0f};
constexpr int ROUNDS = 6;

struct Fit {
    float scale, offset;
    double error;
};

struct CodeRange {
    Floats bottom, top;
};

template <int CHUNKS>
QFORMAT_INLINE void round_chunk(const Group<CHUNKS>& group, int c, Floats offset, Floats inverse, CodeRange range,
                                Floats& code, Floats& rest) {
    const Floats steps = (group.at(c) - offset) * inverse;
    code = nearest(clip(steps, range.bottom, range.top));
    rest = group.masked(steps - code, c);
    code = group.masked(code, c);
}

// Round, then the least-squares scale and offset of those codes.
template <bool SYMMETRIC, int CHUNKS>
QFORMAT_INLINE Fit refit(const Group<CHUNKS>& group, float scale, float offset, CodeRange range) {
    const Floats at = splat(offset), inverse = splat(inverse_of(scale));
    Floats sum_l = splat(0.0f), sum_r = sum_l, sum_ll = sum_l, sum_rl = sum_l, sum_rr = sum_l;
    for (int c = 0; c < group.chunks(); ++c) {
        Floats code, rest;
        round_chunk(group, c, at, inverse, range, code, rest);
        if (!SYMMETRIC) {
            sum_l = sum_l + code;
            sum_r = sum_r + rest;
        }
        sum_ll = sum_ll + code * code;
        sum_rl = sum_rl + rest * code;
        sum_rr = sum_rr + rest * rest;
    }
    const double ll = total(sum_ll), rl = total(sum_rl), rr = total(sum_rr), wide = scale;
    double slope, shift = 0.0, left;
    if (SYMMETRIC) {
        slope = ll > 0.0 ? rl / ll : 0.0;
        left = rr - slope * rl;
    } else {
        const double l = total(sum_l), r = total(sum_r), count = group.count;
        const double determinant = count * ll - l * l;
        slope = determinant > 0.0 ? (count * rl - l * r) / determinant : 0.0;
        shift = (r - slope * l) / count;
        left = rr - shift * r - slope * rl;
    }
    if (slope <= -0.9) {
        slope = shift = 0.0;
        left = rr;
    }
    left = left > 0.0 ? left : 0.0;
    return {(float)(wide * (1.0 + slope)), (float)((double)offset + wide * shift), left * (wide * wide)};
}

template <bool SYMMETRIC, int CHUNKS>
QFORMAT_INLINE void consider(const Group<CHUNKS>& group, float scale, float offset, CodeRange range, Fit best[2]) {
    const Fit fit = refit<SYMMETRIC>(group, scale, offset, range);
    if (fit.error < best[0].error) {
        best[1] = best[0];
        best[0] = fit;
    } else if (fit.error < best[1].error) {
        best[1] = fit;
    }
}

// The fit as stored, and its error; infinite where the scale underflows.
template <bool SYMMETRIC, int CHUNKS>
QFORMAT_INLINE Fit finish(const Group<CHUNKS>& group, Fit fit, CodeRange range, bool half) {
    const float scale = stored(fit.scale, half);
    const Floats inverse = splat(inverse_of(scale));
    float offset = fit.offset;
    if (!SYMMETRIC) {
        Floats sum = splat(0.0f);
        for (int c = 0; c < group.chunks(); ++c) {
            Floats code, rest;
            round_chunk(group, c, splat(offset), inverse, range, code, rest);
            sum = sum + rest;
        }
        const double shift = (double)total(sum) / (double)group.count;
        offset = stored(scale == 0.0f ? mean_of(group) : (float)((double)offset + (double)scale * shift), half);
    }
    Floats sum = splat(0.0f);
    for (int c = 0; c < group.chunks(); ++c) {
        Floats code, rest;
        round_chunk(group, c, splat(offset), inverse, range, code, rest);
        sum = sum + rest * rest;
    }
    const double wide = scale;
    return {scale, offset, scale == 0.0f ? __builtin_inf() : (double)total(sum) * (wide * wide)};
}

template <bool SYMMETRIC, int CHUNKS>
QFORMAT_INLINE Fit search(const Group<CHUNKS>& group, float low, float high, float n, CodeRange range, bool half) {
    const double none = __builtin_inf();
    Fit best[2] = {{1.0f, 0.0f, none}, {1.0f, 0.0f, none}};
    if (SYMMETRIC) {
        const float first = high > -low ? -high : -low;
        for (float clip : SYMMETRIC_CLIPS)
            for (float sign : SIGNS) consider<true>(group, sign * first / (n + clip), 0.0f, range, best);
        for (float share : SHRINKS)
            for (float sign : SIGNS) consider<true>(group, sign * (first / n) * share, 0.0f, range, best);
    } else {
        const float most = 2.0f * n - 1.0f;
        for (float below : CLIPS)
            for (float above : CLIPS) {
                const float step = 1.0f / (most + below + above);
                const float scale = high * step - low * step;
                consider<false>(group, scale, low + scale * (n + below), range, best);
            }
        const float step = 1.0f / most, middle = mean_of(group);
        for (float share : SHRINKS) {
            const float scale = (high * step - low * step) * share;
            consider<false>(group, scale, middle + scale * 0.5f, range, best);
        }
    }
    Fit kept = {0.0f, 0.0f, none};
    for (int i = 0; i < 2; ++i) {
        Fit fit = best[i];
        for (int round = 0; round < ROUNDS; ++round) {
            const Fit next = refit<SYMMETRIC>(group, fit.scale, fit.offset, range);
            if (!(next.error < fit.error)) break;
            fit = next;
        }
        const Fit end = finish<SYMMETRIC>(group, fit, range, half);
        if (i == 0 || end.error < kept.error) kept = end;
    }
    return kept;
}

struct LeastSquares {
    template <int CHUNKS>
    QFORMAT_INLINE_MEMBER void operator()(const GroupJob& job, const Group<CHUNKS>& group, size_t index, uint8_t* codes,
                                          Errors& errors) const {
        const float n = (float)(1 << (job.bits - 1));
        const CodeRange range = {splat(-n), splat(n - 1.0f)};
        float low, high;
        range_of(group, low, high);
        Fit fit;
        float one_code = 0.0f;
        bool flat;
        if (job.symmetric) {
            flat = (high > -low ? high : -low) < SMALLEST_RANGE;
            fit = flat ? Fit{0.0f, 0.0f, 0.0} : search<true>(group, low, high, n, range, job.half);
            flat = flat || fit.scale == 0.0f;
        } else {
            flat = high - low < SMALLEST_RANGE;
            if (flat) {
                const float one = stored(low, job.half), rest = stored(one - low, job.half);
                fit = {rest, one, 0.0};
                one_code = rest == 0.0f ? 0.0f : -1.0f;
            } else {
                fit = search<false>(group, low, high, n, range, job.half);
            }
            ((float*)job.third)[index] = fit.offset;
        }
        job.scales[index] = fit.scale;
        const Floats inverse = splat(inverse_of(fit.scale)), step = splat(fit.scale), offset = splat(fit.offset);
        for (int c = 0; c < group.chunks(); ++c) {
            Floats code = splat(one_code), rest;
            if (!flat) round_chunk(group, c, offset, inverse, range, code, rest);
            store_codes(group, c, code, codes);
            errors.add(group, c, step * code + offset);
        }
    }
};

}  // namespace QFORMAT_ISA
