#include <immintrin.h>

#include "trellis.h"

namespace qformat {
namespace trellis_in_avx512 {
#include "vec_avx512.h"

#include "trellis_unpack-inl.h"

#define QF_COMPUTES
// (The table of 2mad is as fast as its products.)
static constexpr bool computes(StateFunction function) { return function < StateFunction::lut && function != StateFunction::two_mad; }

static inline U32 byte_sums(U32 v) { return (U32)_mm512_dpbusd_epi32(_mm512_setzero_si512(), (__m512i)v, _mm512_set1_epi8(1)); }
// The product with the inverse, and what is missing from that.
static inline F32 divide(F32 v, float by) {
    const F32 inverse = splat(1.0f / by), first = v * inverse;
    return fma(fma(first, splat(-by), v), inverse, first);
}
static inline F32 round_to_half(F32 v) { return (F32)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT)); }

// Which bytes a quadword takes, and at which of its bits each of its eight codes of up to 8 bits starts.
struct Spread {
    alignas(64) uint8_t bytes[64] = {}, bits[64] = {};

    constexpr explicit Spread(int width) {
        for (int i = 0; i < 64; i++) bytes[i] = (uint8_t)(i / 8 * width + i % 8), bits[i] = (uint8_t)(i % 8 * width);
    }
};

// `steps` codes of WIDTH bits, least significant bit first, as words.
template <int WIDTH>
static inline void unpack(const uint8_t* codes, size_t steps, uint16_t* to) {
    if constexpr (WIDTH <= 8) {
        static constexpr Spread spread(WIDTH);
        constexpr uint64_t length = 8 * WIDTH;  // of 64 codes
        const __mmask64 all = (__mmask64)(~uint64_t{0} >> (64 - length));
        for (size_t i = 0; i < steps; i += 64, codes += length) {
            const __m512i placed = _mm512_permutexvar_epi8(_mm512_load_si512(spread.bytes), _mm512_maskz_loadu_epi8(all, codes));
            const __m512i fields = _mm512_multishift_epi64_epi8(_mm512_load_si512(spread.bits), placed);
            const __m512i found = _mm512_and_si512(fields, _mm512_set1_epi8((char)((1 << WIDTH) - 1)));
            _mm512_storeu_si512(to + i, _mm512_cvtepu8_epi16(_mm512_castsi512_si256(found)));
            _mm512_storeu_si512(to + i + 32, _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(found, 1)));
        }
    } else {
        unpack_words<WIDTH>(codes, steps, to);
    }
}

typedef H32 Words;
template <int N>
static inline Words words_before(Words previous, Words here) {
    if constexpr (N % 2 == 0) return (Words)_mm512_alignr_epi32((__m512i)here, (__m512i)previous, 16 - N / 2);
    const __m512i last = _mm512_alignr_epi32((__m512i)here, (__m512i)previous, 15);
    return (Words)_mm512_or_si512(_mm512_slli_epi32((__m512i)here, 16), _mm512_srli_epi32(last, 16));
}

#include "trellis_words-inl.h"

struct TwoRows {
    U32 of[2];
};

struct Order {
    __m512i within;
    __m256i steps;

    explicit Order(const Trellis& m) : within(_mm512_loadu_si512(m.within)) {
        // the first of the two words of each pair says where it is
        steps = _mm256_srli_epi16(_mm512_cvtepi32_epi16(within), 1);
    }

    TwoRows two_rows(const uint16_t* states) const {
        const __m512i ordered = _mm512_permutexvar_epi16(within, _mm512_loadu_si512(states));
        return {{(U32)_mm512_cvtepu16_epi32(_mm512_castsi512_si256(ordered)), (U32)_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(ordered, 1))}};
    }
    U32 two_halves(const uint16_t* states) const {
        return (U32)_mm512_cvtepu16_epi32(_mm256_permutexvar_epi16(steps, _mm256_loadu_si256((const __m256i*)states)));
    }
};

static inline void store_pairs(const float* table, U32 index, U32 turned, int half, float* to) {
    const auto eight = [half](U32 v) { return half ? _mm512_extracti64x4_epi64((__m512i)v, 1) : _mm512_castsi512_si256((__m512i)v); };
    _mm512_storeu_si512(to, _mm512_xor_si512(_mm512_i32gather_epi64(eight(index), table, 8), _mm512_cvtepu32_epi64(eight(turned))));
}

#include "trellis-inl.h"
}  // namespace trellis_in_avx512

void trellis_avx512(const void* coded, const Rectangle& r, float* out, size_t stride) { trellis_in_avx512::decode(coded, r, out, stride); }

}  // namespace qformat
