#include <immintrin.h>

#include "additive.h"

namespace qformat {
namespace additive_in_avx2 {
#include "vec_avx2.h"

// acc + the two products of each lane's signed words.
static inline __m256i dot2_half(__m256i acc, __m256i a, __m256i b) { return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)); }
static inline I32 dot2(I32 acc, U32 a, U32 b) {
    return join<I32>(dot2_half(part_i(acc, 0), part_i(a, 0), part_i(b, 0)), dot2_half(part_i(acc, 1), part_i(a, 1), part_i(b, 1)));
}
// (words − middles) · factors / 2¹⁵, rounded, + 128: words of 16 bits of which the low byte is all.
static inline __m256i quantize_half(__m256i words, __m256i middles, __m256i factors) {
    return _mm256_add_epi16(_mm256_mulhrs_epi16(_mm256_sub_epi16(words, middles), factors), _mm256_set1_epi16(128));
}
static inline U32 quantize(U32 words, U32 middles, U32 factors) {
    return join<U32>(quantize_half(part_i(words, 0), part_i(middles, 0), part_i(factors, 0)),
                     quantize_half(part_i(words, 1), part_i(middles, 1), part_i(factors, 1)));
}

// The low bytes of the first words of every lane, then those of the second ones, of each register.
static inline void store_low_bytes(uint8_t* p, U32 first, U32 second) {
    for (int i = 0; i < 2; i++) {
        const U32 v = i ? second : first;
        const __m256i bytes = _mm256_setr_epi8(0, 4, 8, 12, 2, 6, 10, 14, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, 2, 6, 10, 14, -1, -1, -1,
                                               -1, -1, -1, -1, -1);
        // quarters (a, b) of a register become dwords a's first, a's second, …; the order of rows puts all first ones before
        const __m256i low = _mm256_shuffle_epi8(part_i(v, 0), bytes), high = _mm256_shuffle_epi8(part_i(v, 1), bytes);
        const __m256i all = _mm256_unpacklo_epi32(low, high);  // a1 c1 a2 c2 | b1 d1 b2 d2
        _mm256_storeu_si256((__m256i*)(p + 32 * i), _mm256_permutevar8x32_epi32(all, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    }
}
// Of each word the upper byte.
static inline U32 upper_bytes(U32 bytes) { return (bytes >> 8) & 0x00FF00FFu; }

// Two tables of 16 bytes: lut_pair looks the lower 32 bytes up in the first and the upper 32 in the second.
struct PairTable {
    __m256i first, second;
};
static inline PairTable make_pair_table(const uint8_t* entries) {
    return {_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)entries)),
            _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)(entries + 16)))};
}
static inline U32 lut_pair(const PairTable& t, U32 index) {
    return join<U32>(_mm256_shuffle_epi8(t.first, part_i(index, 0)), _mm256_shuffle_epi8(t.second, part_i(index, 1)));
}

#include "additive-inl.h"

static const AdditiveKernels table = {sum_bytes, sum_exact, finish, matvec_wide, decode};
}  // namespace additive_in_avx2

const AdditiveKernels* additive_avx2() { return &additive_in_avx2::table; }

}  // namespace qformat
