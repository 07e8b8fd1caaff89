// Round to nearest: see rtn.py, whose twins define these loops.
#pragma once

#include "groups.hpp"

namespace QFORMAT_ISA {

template <int CHUNKS>
QFORMAT_INLINE void rtn_symmetric_group(const Group<CHUNKS>& group, float n, bool half, float& scale, uint8_t* codes,
                                        Errors& errors) {
    float low, high;
    range_of(group, low, high);
    const float largest = high > -low ? high : low;
    scale = stored(largest == 0.0f ? 0.0f : -largest / n, half);
    const Floats inverse = splat(inverse_of(scale)), step = splat(scale), bottom = splat(-n), top = splat(n - 1.0f);
    for (int c = 0; c < group.chunks(); ++c) {
        const Floats code = nearest(clip(group.at(c) * inverse, bottom, top));
        store_codes(group, c, code, codes);
        errors.add(group, c, step * code);
    }
}

template <int CHUNKS>
QFORMAT_INLINE void rtn_asymmetric_group(const Group<CHUNKS>& group, float most, bool half, float& scale,
                                         uint8_t& zero_code, uint8_t* codes, Errors& errors) {
    float low, high;
    range_of(group, low, high);
    low = low < 0.0f ? low : 0.0f;
    high = high > 0.0f ? high : 0.0f;
    scale = stored((high - low) / most, half);
    const float inverse = inverse_of(scale);
    float place = -low * inverse;
    place = place < 0.0f ? 0.0f : place > most ? most : place;
    const float zero = (place + 12582912.0f) - 12582912.0f;
    zero_code = (uint8_t)zero;
    const Floats factor = splat(inverse), step = splat(scale), shift = splat(zero);
    const Floats bottom = splat(-zero), top = splat(most - zero);
    for (int c = 0; c < group.chunks(); ++c) {
        const Floats steps = nearest(clip(group.at(c) * factor, bottom, top));
        store_codes(group, c, steps + shift, codes);
        errors.add(group, c, step * steps);
    }
}

struct RtnSymmetric {
    template <int CHUNKS>
    QFORMAT_INLINE_MEMBER void operator()(const GroupJob& job, const Group<CHUNKS>& group, size_t index, uint8_t* codes,
                                          Errors& errors) const {
        rtn_symmetric_group(group, (float)(1 << (job.bits - 1)), job.half, job.scales[index], codes, errors);
    }
};

struct RtnAsymmetric {
    template <int CHUNKS>
    QFORMAT_INLINE_MEMBER void operator()(const GroupJob& job, const Group<CHUNKS>& group, size_t index, uint8_t* codes,
                                          Errors& errors) const {
        uint8_t* zeros = (uint8_t*)job.third;
        rtn_asymmetric_group(group, (float)((1 << job.bits) - 1), job.half, job.scales[index], zeros[index], codes,
                             errors);
    }
};

}  // namespace QFORMAT_ISA
