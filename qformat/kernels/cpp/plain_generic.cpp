#include "plain.h"

namespace qformat {
namespace plain_in_generic {
#include "vec_generic.h"
#include "plain-inl.h"
}  // namespace plain_in_generic

void plain_generic(const void* coded, const Rectangle& r, float* out, size_t stride) { plain_in_generic::decode(coded, r, out, stride); }
void sums_generic(const void* coded, const Rectangle& r, float* out, size_t stride) { plain_in_generic::decode_sums(coded, r, out, stride); }

}  // namespace qformat
