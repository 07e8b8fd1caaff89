#include <immintrin.h>

#include "kernels.h"

namespace qformat {
namespace avx2 {
#include "vec_avx2.h"
#define QF_HALVES "halves_avx2-inl.h"
#include "body-inl.h"

static const Kernels table = {"avx2", choose_matvec, dense::matvec, decode_panels, activations::prepare, results::narrow};
}  // namespace avx2

const Kernels* avx2_kernels() { return &avx2::table; }

}  // namespace qformat
