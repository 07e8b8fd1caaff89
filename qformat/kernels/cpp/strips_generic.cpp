#include "strips.h"

namespace qformat {
namespace strips_in_generic {
#include "vec_generic.h"

static constexpr size_t kRowsAbreast = 1, kBatchAbreast = 1;

static inline F32 load_once(const float* p) { return load_float(p); }

#include "strips-inl.h"

static const StripKernels table = {Isa::generic, strips::multiply, strips::finish, strips::store, fence};
}  // namespace strips_in_generic

const StripKernels* strips_generic() { return &strips_in_generic::table; }

}  // namespace qformat
