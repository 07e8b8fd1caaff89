#include <immintrin.h>

#include "plain.h"

namespace qformat {
namespace plain_in_avx2 {
#include "vec_avx2.h"
#include "plain-inl.h"
}  // namespace plain_in_avx2

void plain_avx2(const void* coded, const Rectangle& r, float* out, size_t stride) { plain_in_avx2::decode(coded, r, out, stride); }
void sums_avx2(const void* coded, const Rectangle& r, float* out, size_t stride) { plain_in_avx2::decode_sums(coded, r, out, stride); }

}  // namespace qformat
