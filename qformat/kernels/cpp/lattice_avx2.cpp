#include <immintrin.h>

#include "lattice.h"

namespace qformat {
namespace lattice_in_avx2 {
#include "vec_avx2.h"

#include "lattice-inl.h"
}  // namespace lattice_in_avx2

void lattice_avx2(const void* coded, const Rectangle& r, float* out, size_t stride) { lattice_in_avx2::decode(coded, r, out, stride); }

}  // namespace qformat
