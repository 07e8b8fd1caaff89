#include <immintrin.h>

#include "batch.h"

namespace qformat {
namespace batch_in_avx512 {
#include "vec_avx512.h"

#pragma GCC diagnostic ignored "-Wunused-function"  // of the activations only some are needed
#include "activations-inl.h"
#include "panel-inl.h"
#include "batch-inl.h"

static const BatchKernels table = {batch::prepare, batch::product};
}  // namespace batch_in_avx512

const BatchKernels* batch_avx512() { return __builtin_cpu_supports("avx512bf16") ? &batch_in_avx512::table : nullptr; }

}  // namespace qformat
