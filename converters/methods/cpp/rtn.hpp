// Round to nearest: see rtn.py, whose twins define these loops.
//
// A row is done in three steps, so that none waits for another group's division: the range of every group, the scales of
// sixteen groups at a time, then codes and errors.
#pragma once

#include "groups.hpp"

namespace QFORMAT_ISA {

// Floats per row that the steps keep, four lots of them: see `scratch_floats` in loops.hpp.
struct RowScratch {
    float *padded, *low, *high, *inverse, *zero;
};

QFORMAT_INLINE RowScratch row_scratch(const GroupJob& job, float* scratch) {
    const size_t count = lanes_up(groups_of(job.columns, job.group));
    float* first = scratch + lanes_up(job.group < job.columns ? job.group : job.columns);
    return {scratch, first, first + count, first + 2 * count, first + 3 * count};
}

template <int CHUNKS>
QFORMAT_INLINE void ranges(const GroupJob& job, const float* row, const RowScratch& scratch) {
    size_t g = 0;
    for (size_t start = 0; start < job.columns; start += job.group, ++g)
        range_of(group_at<CHUNKS>(row + start, length_of(job, start), scratch.padded), scratch.low[g], scratch.high[g]);
    for (; g % LANES; ++g) scratch.low[g] = scratch.high[g] = 0.0f;
}

// Scales (into `low`), their inverses, and the zeros of asymmetric codes.
template <bool SYMMETRIC>
QFORMAT_INLINE void scales(const GroupJob& job, size_t groups, const RowScratch& scratch) {
    const Floats none = splat(0.0f);
    const Floats n = splat((float)(1 << (job.bits - 1))), most = splat((float)((1 << job.bits) - 1));
    for (size_t g = 0; g < groups; g += LANES) {
        const Floats low = load(scratch.low + g), high = load(scratch.high + g);
        if (SYMMETRIC) {
            const Floats largest = if_below(none - low, high, high, low);
            const Floats scale = stored(if_below(none, magnitude(largest), (none - largest) / n, none), job.half);
            store(scratch.low + g, scale);
            store(scratch.inverse + g, inverse_of(scale));
        } else {
            const Floats bottom = smaller(low, none);
            const Floats scale = stored((larger(high, none) - bottom) / most, job.half), inverse = inverse_of(scale);
            store(scratch.low + g, scale);
            store(scratch.inverse + g, inverse);
            store(scratch.zero + g, nearest(clip((none - bottom) * inverse, none, most)));
        }
    }
}

template <int CHUNKS, bool SYMMETRIC>
QFORMAT_INLINE void codes_of(const GroupJob& job, const Group<CHUNKS>& group, float scale, float inverse, float zero,
                             uint8_t* codes, Errors& errors) {
    const float n = (float)(1 << (job.bits - 1)), most = (float)((1 << job.bits) - 1);
    const Floats factor = splat(inverse), step = splat(scale), shift = splat(zero);
    const Floats bottom = splat(SYMMETRIC ? -n : -zero), top = splat(SYMMETRIC ? n - 1.0f : most - zero);
    for (int c = 0; c < group.chunks(); ++c) {
        const Floats steps = nearest(clip(group.at(c) * factor, bottom, top));
        store_codes(group, c, SYMMETRIC ? steps : steps + shift, codes);
        errors.add(group, c, step * steps);
    }
}

template <int CHUNKS, bool SYMMETRIC>
QFORMAT_INLINE void rtn_rows(const GroupJob& job, size_t first, size_t last, float* scratch) {
    const size_t groups = groups_of(job.columns, job.group);
    const RowScratch at = row_scratch(job, scratch);
    for (size_t row = first; row < last; ++row) {
        const float* from = job.weight + row * job.columns;
        ranges<CHUNKS>(job, from, at);
        scales<SYMMETRIC>(job, groups, at);
        Errors errors;
        errors.clear();
        for (size_t g = 0; g < groups; ++g) {
            const size_t start = g * job.group;
            const Group<CHUNKS> group = group_at<CHUNKS>(from + start, length_of(job, start), at.padded);
            codes_of<CHUNKS, SYMMETRIC>(job, group, at.low[g], at.inverse[g], SYMMETRIC ? 0.0f : at.zero[g],
                                        job.codes + row * job.columns + start, errors);
        }
        errors.write(job.errors + 3 * row);
        memcpy(job.scales + row * groups, at.low, groups * sizeof(float));
        if (!SYMMETRIC)
            for (size_t g = 0; g < groups; ++g) ((uint8_t*)job.third)[row * groups + g] = (uint8_t)at.zero[g];
    }
}

}  // namespace QFORMAT_ISA
