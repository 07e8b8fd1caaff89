// Many rows by vdpbf16ps: 24 sums stay in registers.
#include <immintrin.h>

#include "batch.h"

namespace qformat {
namespace batch_in_avx512 {
#include "vec_avx512.h"

#pragma GCC diagnostic ignored "-Wunused-function"  // of the activations only some are needed
#include "activations-inl.h"
#include "panel-inl.h"
#include "batch-inl.h"

struct Registers {
    static constexpr int kPanels = 1;
    struct Ready {};

    // The rows of a block side by side.
    static inline void put(uint32_t* to, const uint16_t* words, size_t row, size_t rows) {
        for (size_t pair = 0; pair < batch::kPairs; pair++) __builtin_memcpy(to + pair * rows + row, words + 2 * pair, 4);
    }

    template <int B>
    static inline void block(const batch::Weights& w, const batch::Chunk& c, const Batch& x, size_t row, F32* y) {
        __m512 sum[B] = {};
        const uint32_t* from = x.pairs + (row * x.runs + c.run * B) * batch::kPairs;
        for (const __m512i *pair = w.pairs, *end = pair + batch::kPairs * c.runs; pair < end; pair++, from += B) {
#pragma GCC unroll 24
            for (int b = 0; b < B; b++) sum[b] = _mm512_dpbf16_ps(sum[b], (__m512bh)*pair, (__m512bh)_mm512_set1_epi32((int)from[b]));
        }
        const float* totals = x.totals + c.index * x.rows + row;
#pragma GCC unroll 24
        for (int b = 0; b < B; b++) y[b] = fma(w.scale, (F32)sum[b], fma(w.shift, splat(totals[b]), y[b]));
    }

    template <int COUNT>
    static inline void multiply(const batch::Weights* w, const batch::Chunk& c, const Batch& x, F32 (*y)[kBatch]) {
        for (size_t i = 0; i < x.blocks(); i++) {
            const size_t row = x.start(i);
            x.start(i + 1) - row == 24 ? block<24>(*w, c, x, row, *y + row) : block<16>(*w, c, x, row, *y + row);
        }
    }
};

static const BatchKernels table = {{256, 24, 8}, batch::prepare<Registers>, batch::product<Registers>};
}  // namespace batch_in_avx512

const BatchKernels* batch_avx512() { return __builtin_cpu_supports("avx512bf16") ? &batch_in_avx512::table : nullptr; }

}  // namespace qformat
