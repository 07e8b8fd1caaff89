#include <immintrin.h>

#include "additive.h"

namespace qformat {
namespace additive_in_avx2 {
#include "vec_avx2.h"

// A table of 256 bytes.
static inline U32 lut_256(const uint8_t* table, U32 index) { return lut_bytes<8>(make_byte_table(table), index); }
// The lowest byte of every lane.
static inline void store_low_bytes(uint8_t* p, U32 v) {
    const __m256i mask = _mm256_set1_epi32(255);
    const __m256i words = _mm256_packus_epi32(_mm256_and_si256(part_i(v, 0), mask), _mm256_and_si256(part_i(v, 1), mask));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
    _mm_storeu_si128((__m128i*)p, _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
}

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

static const AdditiveKernels table = {build, matvec_bytes, matvec_exact, matvec_wide, decode};
}  // namespace additive_in_avx2

const AdditiveKernels* additive_avx2() { return &additive_in_avx2::table; }

}  // namespace qformat
