#include <immintrin.h>

#include "strips.h"

namespace qformat {
namespace strips_in_avx2 {
#include "vec_avx2.h"

static constexpr size_t kRowsAbreast = 2, kBatchAbreast = 1;

#include "strips-inl.h"

static const StripKernels table = {Isa::avx2, strips::multiply, strips::store, fence};
}  // namespace strips_in_avx2

const StripKernels* strips_avx2() { return &strips_in_avx2::table; }

}  // namespace qformat
