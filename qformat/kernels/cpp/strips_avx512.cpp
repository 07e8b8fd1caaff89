#include <immintrin.h>

#include "strips.h"

namespace qformat {
namespace strips_in_avx512 {
#include "vec_avx512.h"

static constexpr size_t kRowsAbreast = 4, kBatchAbreast = 2;

static inline F32 load_once(const float* p) {
    F32 v = load_float(p);
    asm("" : "+v"(v));
    return v;
}

#include "strips-inl.h"

static const StripKernels table = {Isa::avx512, strips::multiply, strips::finish, strips::store, fence};
}  // namespace strips_in_avx512

const StripKernels* strips_avx512() { return &strips_in_avx512::table; }

}  // namespace qformat
