#include <immintrin.h>

#include "lattice.h"

namespace qformat {
namespace lattice_in_avx512 {
#include "vec_avx512.h"

#include "lattice-inl.h"
}  // namespace lattice_in_avx512

void lattice_avx512(const void* coded, const Rectangle& r, float* out, size_t stride) { lattice_in_avx512::decode(coded, r, out, stride); }

}  // namespace qformat
