#include <immintrin.h>

#include "additive.h"

namespace qformat {
namespace additive_in_avx512 {
#include "vec_avx512.h"

// A table of 256 bytes: the halves are looked up apart, the top bit of the index chooses.
static inline U32 lut_256(const uint8_t* table, U32 index) {
    const __m512i i = (__m512i)index;
    const __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(table), i, _mm512_loadu_si512(table + 64));
    const __m512i high = _mm512_permutex2var_epi8(_mm512_loadu_si512(table + 128), i, _mm512_loadu_si512(table + 192));
    return (U32)_mm512_mask_blend_epi8(_mm512_movepi8_mask(i), low, high);
}
// The lowest byte of every lane.
static inline void store_low_bytes(uint8_t* p, U32 v) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8((__m512i)v)); }

// Two tables of 16 bytes: lut_pair looks the lower 32 bytes up in the first and the upper 32 in the second.
typedef __m512i PairTable;
static inline PairTable make_pair_table(const uint8_t* entries) {
    const __m512i both = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)entries));
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), both);
}
static inline U32 lut_pair(PairTable t, U32 index) { return (U32)_mm512_shuffle_epi8(t, (__m512i)index); }

#include "additive-inl.h"

static const AdditiveKernels table = {build, matvec_bytes, matvec_exact, matvec_wide, decode};
}  // namespace additive_in_avx512

const AdditiveKernels* additive_avx512() { return &additive_in_avx512::table; }

}  // namespace qformat
