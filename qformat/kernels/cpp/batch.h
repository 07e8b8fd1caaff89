// Products with many rows of bfloat16 activations, on CPUs that multiply pairs of bfloat16.
#pragma once

#include "kernels.h"

namespace qformat {

constexpr size_t kBatch = 240;  // rows of x in one go: their sums for a panel stay in the nearest cache

// Activations in blocks of 24, 16 or 8 rows: (blocks, runs, 32 pairs, rows of the block) dwords of two bfloat16, and their
// sums (runs, rows). Rows beyond the caller's, and inputs beyond a run, are zero.
struct Batch {
    size_t rows, runs;
    uint32_t* pairs;
    float* sums;
};

struct BatchKernels {
    // rows [first, last) of the blocks, which both start or end one, from x (rows, inputs) of a float type
    void (*prepare)(const uint8_t* x, Value, size_t rows, size_t inputs, size_t group, size_t first, size_t last, Batch&);
    // y (rows, stride): panels [first, last) fill columns [16·first, 16·last) of every row
    void (*product)(const Panels&, const Batch&, size_t first, size_t last, float* y, size_t stride);
};

// Rows of the block that starts at `row` of `rows`, a multiple of 8.
inline size_t block_rows(size_t rows, size_t row) { return rows - row >= 24 ? 24 : rows - row; }

const BatchKernels* batch_avx512();  // nullptr where the processor lacks the instruction

}  // namespace qformat
