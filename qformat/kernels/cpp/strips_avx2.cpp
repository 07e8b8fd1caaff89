#include <immintrin.h>

#include "strips.h"

namespace qformat {
namespace strips_in_avx2 {
#include "vec_avx2.h"

static constexpr size_t kRowsAbreast = 2, kBatchAbreast = 1;

static inline F32 load_once(const float* p) { return load_float(p); }

#include "strips-inl.h"

static const StripKernels table = {Isa::avx2, strips::multiply, strips::finish, strips::store, fence};
}  // namespace strips_in_avx2

const StripKernels* strips_avx2() { return &strips_in_avx2::table; }

}  // namespace qformat
