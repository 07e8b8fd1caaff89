#include "lattice.h"

namespace qformat {
namespace lattice_in_generic {
#include "vec_generic.h"

#include "lattice-inl.h"
}  // namespace lattice_in_generic

void lattice_generic(const void* coded, const Rectangle& r, float* out, size_t stride) { lattice_in_generic::decode(coded, r, out, stride); }

}  // namespace qformat
