#include <immintrin.h>

#include "trellis.h"

namespace qformat {
namespace trellis_in_avx2 {
#include "vec_avx2.h"

#include "trellis_unpack-inl.h"

#define QF_COMPUTES
// (The tables of the others are as fast.)
static constexpr bool computes(StateFunction function) { return function == StateFunction::one_mad || function == StateFunction::mul1; }

static inline __m256i byte_sums_half(__m256i v) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(v, _mm256_set1_epi8(1)), _mm256_set1_epi16(1));
}
static inline U32 byte_sums(U32 v) { return join<U32>(byte_sums_half(part_i(v, 0)), byte_sums_half(part_i(v, 1))); }
// The product with the inverse, and what is missing from that.
static inline F32 divide(F32 v, float by) {
    const F32 inverse = splat(1.0f / by), first = v * inverse;
    return fma(fma(first, splat(-by), v), inverse, first);
}
static inline F32 round_to_half(F32 v) {
    const auto rounded = [](__m256 part) { return _mm256_cvtph_ps(_mm256_cvtps_ph(part, _MM_FROUND_TO_NEAREST_INT)); };
    return join<F32>(rounded(part_f(v, 0)), rounded(part_f(v, 1)));
}

// `steps` codes of WIDTH bits, least significant bit first, as words.
template <int WIDTH>
static inline void unpack(const uint8_t* codes, size_t steps, uint16_t* to) {
    if constexpr (WIDTH > 8) {
        unpack_words<WIDTH>(codes, steps, to);
    } else {
        constexpr int half = 4 * WIDTH;  // bits of the first four of eight codes
        const __m256i shifts = _mm256_add_epi32(_mm256_setr_epi32(0, WIDTH, 2 * WIDTH, 3 * WIDTH, 0, WIDTH, 2 * WIDTH, 3 * WIDTH),
                                                _mm256_setr_epi32(0, 0, 0, 0, half % 8, half % 8, half % 8, half % 8));
        const auto dwords = [](const uint8_t* p) {
            uint32_t v;
            __builtin_memcpy(&v, p, 4);
            return _mm256_set1_epi32((int)v);
        };
        const auto eight = [&](const uint8_t* p) {
            const __m256i both = _mm256_blend_epi32(dwords(p), dwords(p + half / 8), 0xF0);
            return _mm256_and_si256(_mm256_srlv_epi32(both, shifts), _mm256_set1_epi32((1 << WIDTH) - 1));
        };
        constexpr size_t rest = WIDTH == 1 ? 32 : 16;  // codes whose dwords reach beyond the last one
        uint8_t last[rest / 8 * WIDTH + 4] = {};
        __builtin_memcpy(last, codes + (steps - rest) / 8 * WIDTH, rest / 8 * WIDTH);
        for (size_t i = 0; i < steps; i += 16) {
            const uint8_t* p = i + rest < steps ? codes + i / 8 * WIDTH : last + (i + rest - steps) / 8 * WIDTH;
            const __m256i words = _mm256_packus_epi32(eight(p), eight(p + WIDTH));
            _mm256_storeu_si256((__m256i*)(to + i), _mm256_permute4x64_epi64(words, 0xD8));
        }
    }
}

typedef H16 Words;
template <int N>
static inline Words words_before(Words previous, Words here) {
    const __m256i middle = _mm256_permute2x128_si256((__m256i)previous, (__m256i)here, 0x21);
    return (Words)_mm256_alignr_epi8((__m256i)here, middle, 16 - 2 * N);
}

#include "trellis_words-inl.h"

struct TwoRows {
    U32 of[2];
};

// Two words at a time: those of a row lie in pairs.
struct Order {
    const Trellis& m;
    __m256i index[2];

    explicit Order(const Trellis& trellis) : m(trellis) {
        for (int half = 0; half < 2; half++) {
            const __m256i words = _mm256_loadu_si256((const __m256i*)m.within[half]);
            index[half] = _mm256_srli_epi32(_mm256_and_si256(words, _mm256_set1_epi32(0xFFFF)), 1);
        }
    }

    TwoRows two_rows(const uint16_t* states) const {
        const __m256 low = _mm256_loadu_ps((const float*)states), high = _mm256_loadu_ps((const float*)(states + 16));
        const auto row = [&](int half) { return widen_words(_mm256_castps_si256(lut16_half(low, high, index[half]))); };
        return {{row(0), row(1)}};
    }
    U32 two_halves(const uint16_t* states) const {
        uint16_t halves[kSide];
        for (size_t i = 0; i < kSide; i++) halves[i] = states[m.step(i)];
        return widen_words(_mm256_loadu_si256((const __m256i*)halves));
    }

private:
    static U32 widen_words(__m256i words) {
        return join<U32>(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(words)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(words, 1)));
    }
};

#include "trellis_pairs-inl.h"

#include "trellis-inl.h"
}  // namespace trellis_in_avx2

void trellis_avx2(const void* coded, const Rectangle& r, float* out, size_t stride) { trellis_in_avx2::decode(coded, r, out, stride); }

}  // namespace qformat
