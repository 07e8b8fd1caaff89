#include <immintrin.h>

#include "strips.h"

namespace qformat {
namespace strips_in_avx512 {
#include "vec_avx512.h"

static constexpr size_t kRowsAbreast = 4, kBatchAbreast = 2;

#include "strips-inl.h"

static const StripKernels table = {Isa::avx512, strips::multiply, strips::store, fence};
}  // namespace strips_in_avx512

const StripKernels* strips_avx512() { return &strips_in_avx512::table; }

}  // namespace qformat
