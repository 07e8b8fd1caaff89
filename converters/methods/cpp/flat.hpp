// Lookup blocks, scaled rows, and the numbers that whole tensors are asked for.
#pragma once

#include "groups.hpp"

namespace QFORMAT_ISA {

// A table of sixteen, sorted, and what a binary search through its fifteen thresholds compares with.
struct Search {
    Floats middle, quarter, eighth, last, sorted;
    Ints order;
    bool in_order;
};

QFORMAT_INLINE Search search_of(const Table& table) {
    Search search;
    float quarter[LANES], eighth[LANES], last[LANES];
    for (int i = 0; i < LANES; ++i) {  // entry i: the threshold to compare with once the rank is known to be i or more
        quarter[i] = table.bounds[i + 3 < 15 ? i + 3 : 14];
        eighth[i] = table.bounds[i + 1 < 15 ? i + 1 : 14];
        last[i] = table.bounds[i < 15 ? i : 14];
    }
    search.middle = splat(table.bounds[7]);
    search.quarter = load(quarter);
    search.eighth = load(eighth);
    search.last = load(last);
    search.sorted = load(table.sorted);
    search.order = load_bytes(table.order);
    search.in_order = true;
    for (int i = 0; i < LANES; ++i) search.in_order = search.in_order && table.order[i] == i;
    return search;
}

QFORMAT_INLINE Ints plus_where_below(Ints rank, Floats bound, Floats x, int step) {
#if defined(__AVX512F__)
    QFORMAT_EACH(PARTS) {
        const __m512i old = (__m512i)rank.part[i];
        const __mmask16 below = _mm512_cmp_ps_mask(bound.part[i], x.part[i], _CMP_LT_OQ);
        rank.part[i] = (IntPart)_mm512_mask_add_epi32(old, below, old, _mm512_set1_epi32(step));
    }
#else
    QFORMAT_EACH(PARTS) rank.part[i] += (bound.part[i] < x.part[i]) & step;
#endif
    return rank;
}

// The number of thresholds below x.
QFORMAT_INLINE Ints rank_of(const Search& search, Floats x) {
    Ints rank = no_ints();
    rank = plus_where_below(rank, search.middle, x, 8);
    rank = plus_where_below(rank, entries(search.quarter, rank), x, 4);
    rank = plus_where_below(rank, entries(search.eighth, rank), x, 2);
    return plus_where_below(rank, entries(search.last, rank), x, 1);
}

QFORMAT_INLINE void store_bytes(uint8_t* to, Ints value) {
    QFORMAT_EACH(PARTS) {
        const BytePart bytes = __builtin_convertvector(value.part[i], BytePart);
        memcpy(to + i * NATIVE, &bytes, NATIVE);
    }
}

QFORMAT_INLINE void store_ranks(const Search& search, Ints rank, uint8_t* to) {
    store_bytes(to, search.in_order ? rank : bits_of(entries(floats_of(search.order), rank)));
}

QFORMAT_INLINE float largest_in(const float* from, size_t length) {
    Floats most = splat(0.0f);
    const size_t whole = length / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES) most = larger(magnitude(load(from + i)), most);
    float largest = highest(most);
    for (size_t i = whole; i < length; ++i) {
        const float size = from[i] < 0.0f ? -from[i] : from[i];
        largest = size > largest ? size : largest;
    }
    return largest;
}

// Codes of blocks [first, last): the number of thresholds below the scaled weight, then the table's order.
static void lookup(const LookupJob& job, size_t first, size_t last) {
    const Search search = search_of(job.table);
    for (size_t block = first; block < last; ++block) {
        const size_t start = block * job.block;
        const size_t length = job.size - start < job.block ? job.size - start : job.block;
        const float* from = job.weight + start;
        const float largest = largest_in(from, length), safe = largest > 1e-38f ? largest : 1e-38f;
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
            store_ranks(search, rank_of(search, x), bytes);
            memcpy(job.codes + start + i, bytes, count);
        }
    }
}

// Rows [first, last) that whole blocks fill: codes, scales and errors at once. Blocks are whole chunks.
static void lookup_rows(const GroupJob& job, size_t first, size_t last, float* scratch) {
    const Search search = search_of(job.table);
    const size_t group = job.group, groups = job.columns / group;
    float* factors = scratch;
    for (size_t row = first; row < last; ++row) {
        const float* from = job.weight + row * job.columns;
        float* scales = job.scales + row * groups;
        for (size_t g = 0; g < groups; ++g) {
            scales[g] = largest_in(from + g * group, group);
            factors[g] = 1.0f / (scales[g] > 1e-38f ? scales[g] : 1e-38f);
        }
        uint8_t* codes = job.codes + row * job.columns;
        Errors errors;
        errors.clear();
        for (size_t g = 0; g < groups; ++g) {
            const Floats factor = splat(factors[g]), scale = splat(scales[g]);
            for (size_t i = g * group; i < (g + 1) * group; i += LANES) {
                const Floats x = load(from + i);
                const Ints rank = rank_of(search, clip(x * factor, splat(-1.0f), splat(1.0f)));
                store_ranks(search, rank, codes + i);
                errors.add(x, scale * entries(search.sorted, rank));
            }
        }
        errors.write(job.errors + 3 * row);
    }
}

// Errors of rows [first, last) of a (rows, columns) matrix coded in flat blocks.
static void measure_lookup(const LookupJob& job, size_t columns, size_t first, size_t last, double* errors) {
    float by_code[LANES];
    for (int i = 0; i < LANES; ++i) by_code[job.table.order[i]] = job.table.sorted[i];
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

template <bool EETQ>
QFORMAT_INLINE void scaled_row(const GroupJob& job, size_t row, float* scratch) {
    const Group<0> group = group_at<0>(job.weight + row * job.columns, job.columns, scratch);
    float low, high;
    range_of(group, low, high);
    float largest = high > -low ? high : -low;
    if (!EETQ) largest = to_half(largest);
    const bool none = largest < 0x1p-118f;
    const float step = EETQ ? largest / 128.0f : (1.0f / largest) * 127.0f;
    const float scale = none ? 0.0f : EETQ ? stored(step, job.half) : largest * 0x1.020408p-7f;
    job.scales[row] = scale;
    Errors errors;
    errors.clear();
    for (int c = 0; c < group.chunks(); ++c) {
        Floats code;
        if (EETQ) code = nearest_away(clip(group.at(c) / splat(step), splat(-128.0f), splat(127.0f)));
        else code = nearest(clip(to_half(group.at(c)) * splat(step), splat(-127.0f), splat(127.0f)));
        if (none) code = splat(0.0f);
        store_codes(group, c, code, job.codes + row * job.columns);
        errors.add(group, c, splat(scale) * code);
    }
    errors.write(job.errors + 3 * row);
}

// The whole row is one group; `symmetric` is EETQ, not so LLM.int8.
static void scaled_rows(const GroupJob& job, size_t first, size_t last, float* scratch) {
    for (size_t row = first; row < last; ++row)
        if (job.symmetric) scaled_row<true>(job, row, scratch);
        else scaled_row<false>(job, row, scratch);
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

// NaN counts as infinity.
QFORMAT_INLINE float finite_or_infinite(int32_t bits) {
    if (bits > 0x7f800000) bits = 0x7f800000;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static float largest_of(const float* weight, size_t size) {
    Ints most = no_ints();
    size_t at = 0;
    for (; at + LANES <= size; at += LANES) most = larger(magnitude_bits(load(weight + at)), most);
    int32_t out = highest(most);
    for (; at < size; ++at) {
        int32_t bits;
        memcpy(&bits, weight + at, 4);
        bits &= 0x7fffffff;
        out = bits > out ? bits : out;
    }
    return finite_or_infinite(out);
}

// Sixteen 16-bit floats as float32; exact.
QFORMAT_INLINE Floats widen_chunk(const uint16_t* from, bool half) {
    Floats wide;
    QFORMAT_EACH(PARTS) {
        const IntPart bits = widen_shorts(from + i * NATIVE);
        IntPart out = bits << 16;
        if (half) {  // the exponent moves by 112; a product does that for subnormals too
            const IntPart size_bits = bits & 0x7fff;
            const IntPart scaled = (IntPart)((FloatPart)(size_bits << 13) * 0x1p112f);
            const IntPart special = (size_bits << 13) | 0x7f800000;
            out = (size_bits >= 0x7c00 ? special : scaled) | ((bits & 0x8000) << 16);
        }
        wide.part[i] = (FloatPart)out;
    }
    return wide;
}

static void widen_halves(const uint16_t* from, size_t size, bool half, float* to) {
    size_t at = 0;
    for (; at + LANES <= size; at += LANES) store(to + at, widen_chunk(from + at, half));
    if (at == size) return;
    uint16_t some[LANES] = {0};
    memcpy(some, from + at, (size - at) * sizeof(uint16_t));
    const Floats wide = widen_chunk(some, half);
    memcpy(to + at, &wide, (size - at) * sizeof(float));
}

// The largest of 16-bit floats without their signs, as bits: they order like the numbers.
static uint16_t largest_bits(const uint16_t* from, size_t size) {
    uint16_t most = 0;
    for (size_t i = 0; i < size; ++i) {
        const uint16_t bits = from[i] & 0x7fff;
        most = bits > most ? bits : most;
    }
    return most;
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
