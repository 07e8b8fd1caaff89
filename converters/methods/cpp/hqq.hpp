// Half-quadratic quantization: see hqq.py, whose twin defines this loop.
#pragma once

#include "groups.hpp"

namespace QFORMAT_ISA {

constexpr float LOG2[] = {0.5849624872207642f, 0.9609739780426025f, -0.32013946771621704f, 0.15538813173770905f, -0.07844067364931107f};
constexpr float EXP2[] = {0.9999245405197144f, 0.6931367516517639f, 0.2426394820213318f, 0.05583828315138817f};

template <int COUNT>
QFORMAT_INLINE Floats horner(const float (&coefficients)[COUNT], Floats x) {
    Floats value = splat(coefficients[COUNT - 1]);
#pragma GCC unroll 8
    for (int i = COUNT - 2; i >= 0; --i) value = value * x + splat(coefficients[i]);
    return value;
}

// base^exponent of floats that are not negative; of 0 some finite number.
QFORMAT_INLINE Floats power(Floats base, float exponent) {
    Floats whole, part;
    const Ints bits = bits_of(base);
    Ints mantissa;
    QFORMAT_EACH(PARTS) {
        whole.part[i] = __builtin_convertvector((bits.part[i] >> 23) - 127, FloatPart);
        mantissa.part[i] = (bits.part[i] & 0x7fffff) | 0x3f800000;
    }
    part = floats_of(mantissa) - splat(1.5f);
    const Floats logarithm = (whole + horner(LOG2, part)) * splat(exponent);
    whole = nearest(logarithm);
    Ints scale;
    QFORMAT_EACH(PARTS) scale.part[i] = (__builtin_convertvector(whole.part[i], IntPart) + 127) << 23;
    return floats_of(scale) * horner(EXP2, logarithm - whole);
}

// The proximal step of |·|^p.
QFORMAT_INLINE Floats shrink(Floats residual, float inverse_beta, float exponent) {
    const Floats size = magnitude(residual);
    const Floats less = size - power(size, exponent) * splat(inverse_beta);
    Ints bits = bits_of(larger(less, splat(0.0f)));
    const Ints signs = bits_of(residual);
    QFORMAT_EACH(PARTS) bits.part[i] = (bits.part[i] & 0x7fffffff) | (signs.part[i] & INT32_MIN);
    return floats_of(bits);
}

template <int CHUNKS>
QFORMAT_INLINE float solve(const GroupJob& job, const Group<CHUNKS>& group, float inverse, float start, float most) {
    const Floats factor = splat(inverse), bottom = splat(0.0f), top = splat(most);
    const float exponent = (float)(job.lp - 1.0);
    float best = start, lowest = __builtin_inff();
    double beta = job.beta;
    for (int phase = 0; phase < 2; ++phase) {
        float zero = phase == 0 ? start : best;
        for (int iteration = 0; iteration < job.iterations; ++iteration) {
            Floats sum_error = splat(0.0f), sum_move = splat(0.0f);
            const float inverse_beta = (float)(1.0 / beta);
            for (int c = 0; c < group.chunks(); ++c) {
                const Floats place = group.at(c) * factor + splat(zero);
                const Floats rest = group.masked(place - nearest(clip(place, bottom, top)), c);
                sum_error = sum_error + rest * rest;
                sum_move = sum_move + (phase == 0 ? shrink(rest, inverse_beta, exponent) - rest : splat(0.0f) - rest);
            }
            const float error = total(sum_error);
            if (error < lowest) {
                lowest = error;
                best = zero;
            }
            const double move = (double)total(sum_move) / (double)group.count;
            zero = (float)((double)zero + move);
            beta *= job.kappa;
            if (!((move < 0.0 ? -move : move) > 0x1p-9)) break;
        }
    }
    return best;
}

// The best of three zeros that the type can store.
template <int CHUNKS>
QFORMAT_INLINE float store_zero(const Group<CHUNKS>& group, float inverse, float zero, float most, bool half) {
    const float unit = (zero < 0.0f ? -zero : zero) * 0x1p-10f;
    const float trials[3] = {zero, zero + unit, zero - unit};
    const Floats factor = splat(inverse), bottom = splat(0.0f), top = splat(most);
    float best = zero, lowest = __builtin_inff();
    for (float trial : trials) {
        const float value = stored(trial, half);
        const Floats shift = splat(value);
        Floats sum = splat(0.0f);
        for (int c = 0; c < group.chunks(); ++c) {
            const Floats steps = group.at(c) * factor;
            const Floats code = nearest(clip(steps + shift, bottom, top));
            const Floats rest = group.masked(steps - (code - shift), c);
            sum = sum + rest * rest;
        }
        const float error = total(sum);
        if (error < lowest) {
            lowest = error;
            best = value;
        }
    }
    return best;
}

// Whether one value for the whole group leaves less error than codes around a zero that is far away.
template <int CHUNKS>
QFORMAT_INLINE bool one_is_better(const Group<CHUNKS>& group, float inverse, float zero, float most, float one) {
    const Floats factor = splat(inverse), shift = splat(zero), single = splat(one * inverse);
    Floats kept = splat(0.0f), apart = splat(0.0f);
    for (int c = 0; c < group.chunks(); ++c) {
        const Floats steps = group.at(c) * factor;
        const Floats code = nearest(clip(steps + shift, splat(0.0f), splat(most)));
        const Floats rest = group.masked(steps - (code - shift), c), other = group.masked(steps - single, c);
        kept = kept + rest * rest;
        apart = apart + other * other;
    }
    return total(apart) < total(kept);
}

struct HalfQuadratic {
    template <int CHUNKS>
    QFORMAT_INLINE_MEMBER void operator()(const GroupJob& job, const Group<CHUNKS>& group, size_t index, uint8_t* codes,
                                          Errors& errors) const {
        const float most = (float)((1 << job.bits) - 1);
        float low, high;
        range_of(group, low, high);
        const bool flat = high - low < SMALLEST_RANGE;
        float scale = stored((high - low) / most, job.half);
        const float inverse = inverse_of(scale), start = -low * inverse;
        const float size = start < 0.0f ? -start : start;
        bool single = flat || scale == 0.0f || size > (job.half ? 60000.0f : 0x1p21f);
        const float one = stored(flat ? low : mean_of(group), job.half);
        float zero = 0.0f;
        if (!single) {
            zero = solve(job, group, inverse, start, most);
            zero = store_zero(group, inverse, zero, most, job.half);
            if ((zero < 0.0f ? -zero : zero) > 1024.0f) single = one_is_better(group, inverse, zero, most, one);
        }
        if (single) {
            scale = one;
            zero = one == 0.0f ? 0.0f : -1.0f;
        }
        job.scales[index] = scale;
        ((float*)job.third)[index] = zero;
        const Floats factor = splat(inverse), shift = splat(zero), step = splat(scale);
        for (int c = 0; c < group.chunks(); ++c) {
            const Floats code =
                single ? splat(0.0f) : nearest(clip(group.at(c) * factor + shift, splat(0.0f), splat(most)));
            store_codes(group, c, code, codes);
            errors.add(group, c, step * (code - shift));
        }
    }
};

}  // namespace QFORMAT_ISA
