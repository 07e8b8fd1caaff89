// Lookup blocks, scaled rows, and the numbers that whole tensors are asked for.
#pragma once

#include "groups.hpp"

namespace QFORMAT_ISA {

// Codes of blocks [first, last): the number of thresholds below the scaled weight, then the table's order.
static void lookup(const LookupJob& job, size_t first, size_t last) {
    Floats bounds[15];
    for (int i = 0; i < 15; ++i) bounds[i] = splat(job.bounds[i]);
    bool sorted = true;
    for (int i = 0; i < 16; ++i) sorted = sorted && job.order[i] == i;
    for (size_t block = first; block < last; ++block) {
        const size_t start = block * job.block;
        const size_t length = job.size - start < job.block ? job.size - start : job.block;
        const float* from = job.weight + start;
        Floats most = splat(0.0f);
        const size_t whole = length / LANES * LANES;
        for (size_t i = 0; i < whole; i += LANES) most = larger(magnitude(load(from + i)), most);
        float largest = highest(most);
        for (size_t i = whole; i < length; ++i) {
            const float size = from[i] < 0.0f ? -from[i] : from[i];
            largest = size > largest ? size : largest;
        }
        const float safe = largest > 1e-38f ? largest : 1e-38f;
        const bool rest = length < job.block;  // bitsandbytes divides in a short block, multiplies in a whole one
        job.scales[block] = rest ? safe : largest;
        const Floats factor = splat(1.0f / safe), divisor = splat(safe);
        for (size_t i = 0; i < length; i += LANES) {
            const size_t count = length - i < LANES ? length - i : LANES;
            Floats x = splat(0.0f);
            if (count == LANES) x = load(from + i);
            else memcpy(&x, from + i, count * sizeof(float));
            x = clip(rest ? x / divisor : x * factor, splat(-1.0f), splat(1.0f));
            uint8_t bytes[LANES];
            Ints rank;
            QFORMAT_EACH(PARTS) {
                IntPart below = (bounds[0].part[i] < x.part[i]);
#pragma GCC unroll 16
                for (int b = 1; b < 15; ++b) below += (bounds[b].part[i] < x.part[i]);
                rank.part[i] = -below;
            }
            QFORMAT_EACH(PARTS) {
                BytePart narrow = __builtin_convertvector(rank.part[i], BytePart);
                memcpy(bytes + i * NATIVE, &narrow, NATIVE);
            }
            if (!sorted)
                for (int k = 0; k < LANES; ++k) bytes[k] = job.order[bytes[k]];
            if (count == LANES) memcpy(job.codes + start + i, bytes, LANES);
            else memcpy(job.codes + start + i, bytes, count);
        }
    }
}

// Errors of rows [first, last) of a (rows, columns) matrix coded in flat blocks.
static void measure_lookup(const LookupJob& job, size_t columns, size_t first, size_t last, double* errors) {
    float by_code[LANES];
    for (int i = 0; i < LANES; ++i) by_code[job.order[i]] = job.sorted[i];
    const Floats table = load(by_code);
    for (size_t row = first; row < last; ++row) {
        Errors sums;
        sums.clear();
        for (size_t column = 0; column < columns; column += LANES) {
            const size_t at = row * columns + column, count = columns - column < LANES ? columns - column : LANES;
            const size_t block = at / job.block;
            uint8_t codes[LANES] = {0};
            float x[LANES] = {0.0f}, scales[LANES] = {0.0f};
            if (count == LANES && (at + LANES - 1) / job.block == block) {
                const Floats value = splat(job.scales[block]) * entries(table, load_bytes(job.codes + at));
                sums.add(load(job.weight + at), value);
                continue;
            }
            memcpy(codes, job.codes + at, count);
            memcpy(x, job.weight + at, count * sizeof(float));
            for (size_t k = 0; k < count; ++k) scales[k] = job.scales[(at + k) / job.block];
            sums.add(load(x), load(scales) * entries(table, load_bytes(codes)));
        }
        sums.write(errors + 3 * row);
    }
}

// The nearest integer, ties away from zero, of a value below 2^22.
QFORMAT_INLINE Floats nearest_away(Floats value) {
    const Floats even = nearest(value), rest = value - even;
    Floats up = splat(0.0f);
    QFORMAT_EACH(PARTS) {
        const IntPart above = (rest.part[i] == 0.5f) & (value.part[i] > 0.0f);
        const IntPart below = (rest.part[i] == -0.5f) & (value.part[i] < 0.0f);
        up.part[i] = __builtin_convertvector(below - above, FloatPart);
    }
    return even + up;
}

static void scaled_rows(const RowJob& job, size_t first, size_t last, float* scratch) {
    for (size_t row = first; row < last; ++row) {
        const Group<0> group = group_at<0>(job.weight + row * job.columns, job.columns, scratch);
        float low, high;
        range_of(group, low, high);
        float largest = high > -low ? high : -low;
        if (!job.eetq) largest = to_half(largest);
        const bool none = largest < 0x1p-118f;
        const float step = job.eetq ? largest / 128.0f : (1.0f / largest) * 127.0f;
        const float scale = none ? 0.0f : job.eetq ? stored(step, job.half) : largest * 0x1.020408p-7f;
        job.scales[row] = scale;
        Errors errors;
        errors.clear();
        for (int c = 0; c < group.chunks(); ++c) {
            Floats code = splat(0.0f);
            if (!none && job.eetq) code = nearest_away(clip(group.at(c) / splat(step), splat(-128.0f), splat(127.0f)));
            if (!none && !job.eetq)
                code = nearest(clip(to_half(group.at(c)) * splat(step), splat(-127.0f), splat(127.0f)));
            store_codes(group, c, code, job.codes + row * job.columns);
            errors.add(group, c, splat(scale) * code);
        }
        errors.write(job.errors + 3 * row);
    }
}

// Errors of rows [first, last) against a decoded matrix.
static void measure(const float* weight, const float* decoded, size_t columns, size_t first, size_t last,
                    double* errors) {
    for (size_t row = first; row < last; ++row) {
        Errors sums;
        sums.clear();
        for (size_t column = 0; column < columns; column += LANES) {
            const size_t at = row * columns + column, count = columns - column < LANES ? columns - column : LANES;
            float x[LANES] = {0.0f}, value[LANES] = {0.0f};
            memcpy(x, weight + at, count * sizeof(float));
            memcpy(value, decoded + at, count * sizeof(float));
            sums.add(load(x), load(value));
        }
        sums.write(errors + 3 * row);
    }
}

static float largest_of(const float* weight, size_t size) {
    Ints most;
    memset(&most, 0, sizeof most);
    size_t at = 0;
    for (; at + LANES <= size; at += LANES) {
        const Ints bits = bits_of(magnitude(load(weight + at)));
        QFORMAT_EACH(PARTS) most.part[i] = bits.part[i] > most.part[i] ? bits.part[i] : most.part[i];
    }
    int32_t lanes[LANES], out = 0;
    memcpy(lanes, &most, sizeof lanes);
    for (int i = 0; i < LANES; ++i) out = lanes[i] > out ? lanes[i] : out;
    for (; at < size; ++at) {
        int32_t bits;
        memcpy(&bits, weight + at, 4);
        bits &= 0x7fffffff;
        out = bits > out ? bits : out;
    }
    if (out > 0x7f800000) out = 0x7f800000;  // NaN counts as infinity
    float value;
    memcpy(&value, &out, 4);
    return value;
}

// 16-bit floats as float32; exact.
static void widen_halves(const uint16_t* from, size_t size, bool half, float* to) {
    typedef uint16_t ShortPart __attribute__((vector_size(2 * NATIVE)));
    size_t at = 0;
    for (; at < size; at += LANES) {
        const size_t count = size - at < LANES ? size - at : LANES;
        uint16_t some[LANES] = {0};
        float wide[LANES];
        const uint16_t* source = from + at;
        float* target = to + at;
        if (count < LANES) {
            memcpy(some, source, count * sizeof(uint16_t));
            source = some;
            target = wide;
        }
        QFORMAT_EACH(PARTS) {
            ShortPart narrow;
            memcpy(&narrow, source + i * NATIVE, sizeof narrow);
            const IntPart bits = __builtin_convertvector(narrow, IntPart);
            IntPart out = bits << 16;
            if (half) {  // the exponent moves by 112; a product does that for subnormals too
                const IntPart size_bits = bits & 0x7fff;
                const IntPart scaled = (IntPart)((FloatPart)(size_bits << 13) * 0x1p112f);
                const IntPart special = (size_bits << 13) | 0x7f800000;
                out = (size_bits >= 0x7c00 ? special : scaled) | ((bits & 0x8000) << 16);
            }
            memcpy(target + i * NATIVE, &out, sizeof out);
        }
        if (count < LANES) memcpy(to + at, wide, count * sizeof(float));
    }
}

// Numbers that float16 holds exactly, as float16.
static void narrow_halves(const float* from, size_t size, uint16_t* to) {
    for (size_t at = 0; at < size; ++at) {
        uint32_t bits;
        memcpy(&bits, from + at, 4);
        const uint32_t sign = bits >> 16 & 0x8000u, magnitude_bits = bits & 0x7fffffffu;
        float value;
        memcpy(&value, &magnitude_bits, 4);
        const float moved = value + 0.5f;  // a subnormal's steps are those of a float32 in [1/2, 1)
        uint32_t small;
        memcpy(&small, &moved, 4);
        const uint32_t normal = magnitude_bits >= 0x7f800000u ? 0x7c00u : (magnitude_bits >> 13) - (112u << 10);
        to[at] = (uint16_t)(sign | (magnitude_bits < 0x38800000u ? small - 0x3f000000u : normal));
    }
}

// both[0]: the largest magnitude; both[1]: the largest of a group that stays below the limit.
static void extremes(const float* weight, size_t columns, size_t group, float limit, size_t first, size_t last,
                     float* both) {
    for (size_t row = first; row < last; ++row)
        for (size_t start = 0; start < columns; start += group) {
            const size_t length = columns - start < group ? columns - start : group;
            const float largest = largest_of(weight + row * columns + start, length);
            if (largest > both[0]) both[0] = largest;
            if (largest < limit && largest > both[1]) both[1] = largest;
        }
}

}  // namespace QFORMAT_ISA
