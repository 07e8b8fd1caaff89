#include <immintrin.h>

#include "kernels.h"

namespace qformat {
namespace avx512 {
#include "vec_avx512.h"
#define QF_HAS_BFLOAT
#define QF_RUN "run_avx512-inl.h"
#include "body-inl.h"

static const Kernels table = {"avx512", choose_matvec, dense::matvec, decode_panels, activations::prepare, results::narrow};
}  // namespace avx512

const Kernels* avx512_kernels() { return &avx512::table; }

}  // namespace qformat
