// One group of weights, and what every method does with groups: scalars as they are stored, errors of a row.
#pragma once

#include "lanes.hpp"
#include "loops.hpp"

namespace QFORMAT_ISA {

constexpr float SMALLEST_RANGE = 0x1p-100f;

// Weights of a group in chunks of sixteen; the last chunk may be partial, its spare lanes are zero.
// CHUNKS > 0 fixes their number (and then no chunk is partial), so that short groups stay in registers.
template <int CHUNKS>
struct Group {
    const float* x;
    int number;
    float count;
    Floats mask;  // of the last chunk: 1 or 0
    bool partial;

    QFORMAT_INLINE_MEMBER int chunks() const { return CHUNKS ? CHUNKS : number; }
    QFORMAT_INLINE_MEMBER bool last(int chunk) const { return !CHUNKS && partial && chunk == number - 1; }
    QFORMAT_INLINE_MEMBER Floats at(int chunk) const { return load(x + LANES * chunk); }
    QFORMAT_INLINE_MEMBER Floats masked(Floats value, int chunk) const { return last(chunk) ? value * mask : value; }
};

// The group of `length` weights at `from`; `scratch` takes a padded copy when the last chunk is partial.
template <int CHUNKS>
QFORMAT_INLINE Group<CHUNKS> group_at(const float* from, size_t length, float* scratch) {
    Group<CHUNKS> group;
    group.x = from;
    group.number = (int)((length + LANES - 1) / LANES);
    group.count = (float)length;
    const int rest = (int)(length % LANES);
    group.partial = rest != 0;
    group.mask = splat(1.0f);
    if (!CHUNKS && rest) {
        float lanes[LANES];
        for (int i = 0; i < LANES; ++i) lanes[i] = i < rest ? 1.0f : 0.0f;
        group.mask = load(lanes);
        memcpy(scratch, from, length * sizeof(float));
        memset(scratch + length, 0, (LANES - rest) * sizeof(float));
        group.x = scratch;
    }
    return group;
}

// Inputs of the group that begins at `start`.
QFORMAT_INLINE size_t length_of(const GroupJob& job, size_t start) {
    return job.columns - start < job.group ? job.columns - start : job.group;
}

template <int CHUNKS>
QFORMAT_INLINE void range_of(const Group<CHUNKS>& group, float& low, float& high) {
    Floats lows = splat(__builtin_inff()), highs = splat(-__builtin_inff());
    for (int c = 0; c < group.chunks(); ++c) {
        const Floats x = group.at(c);
        lows = smaller(group.last(c) ? choose(group.mask, x, splat(__builtin_inff())) : x, lows);
        highs = larger(group.last(c) ? choose(group.mask, x, splat(-__builtin_inff())) : x, highs);
    }
    low = lowest(lows) + 0.0f;  // no negative zero
    high = highest(highs) + 0.0f;
}

template <int CHUNKS>
QFORMAT_INLINE float mean_of(const Group<CHUNKS>& group) {
    Floats sum = splat(0.0f);
    for (int c = 0; c < group.chunks(); ++c) sum = sum + group.at(c);
    return (float)((double)total(sum) / (double)group.count);
}

// A float32 rounded to the nearest float16, ties to even; beyond its range an infinity.
QFORMAT_INLINE float to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint32_t sign = bits & 0x80000000u;
    bits ^= sign;
    float size;
    if (bits < 0x38800000u) {  // below 2^-14 steps are 2^-24, those of a float32 in [1/2, 1)
        memcpy(&size, &bits, 4);
        size = (size + 0.5f) - 0.5f;
        memcpy(&bits, &size, 4);
    } else if (bits < 0x7f800000u) {
        bits = (bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu;
        if (bits >= 0x47800000u) bits = 0x7f800000u;
    }
    bits |= sign;
    memcpy(&value, &bits, 4);
    return value;
}

QFORMAT_INLINE float stored(float value, bool half) { return half ? to_half(value) : value; }
QFORMAT_INLINE Floats stored(Floats value, bool half) { return half ? to_half(value) : value; }

// 1/scale, and 0 where scale is 0 or so small that its inverse is not a number.
QFORMAT_INLINE float inverse_of(float scale) {
    const float size = scale < 0.0f ? -scale : scale;
    return size >= 0x1p-126f ? 1.0f / scale : 0.0f;
}

QFORMAT_INLINE Floats inverse_of(Floats scale) {
    return if_below(magnitude(scale), splat(0x1p-126f), splat(0.0f), splat(1.0f) / scale);
}

// Squared error, squared norm and largest error of one row, in float64.
struct Errors {
    Doubles error, norm, most;

    QFORMAT_INLINE_MEMBER void clear() {
        error = norm = most = no_doubles();
    }
    template <int CHUNKS>
    QFORMAT_INLINE_MEMBER void add(const Group<CHUNKS>& group, int chunk, Floats decoded) {
        add(group.at(chunk), group.masked(decoded, chunk));  // spare lanes of the weights are zero
    }
    QFORMAT_INLINE_MEMBER void add(Floats weight, Floats decoded) {
        const Doubles x = widen(weight), difference = x - widen(decoded);
        error = error + difference * difference;
        norm = plus_square(norm, x);
        most = larger_magnitude(difference, most);
    }
    QFORMAT_INLINE_MEMBER void write(double* to) const {
        to[0] = total(error);
        to[1] = total(norm);
        to[2] = highest(most);
    }
};

template <int CHUNKS>
QFORMAT_INLINE void store_codes(const Group<CHUNKS>& group, int chunk, Floats codes, uint8_t* to) {
    if (group.last(chunk)) {
        uint8_t bytes[LANES];
        store_bytes(bytes, codes);
        memcpy(to + LANES * chunk, bytes, (size_t)group.count - (size_t)LANES * chunk);
    } else {
        store_bytes(to + LANES * chunk, codes);
    }
}

}  // namespace QFORMAT_ISA
