#include <immintrin.h>

#include "additive.h"

namespace qformat {
namespace additive_in_avx2 {
#include "vec_avx2.h"

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
