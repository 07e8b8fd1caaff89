// Products with many rows of bfloat16 activations, on CPUs that multiply pairs of bfloat16.
#pragma once

#include "kernels.h"

namespace qformat {

constexpr size_t kBatch = 256;  // rows of x in one go: their sums for a panel stay in the nearest cache
constexpr size_t kChunk = 512;  // inputs of a group whose weights are held at a time: 16 KiB

// Activations in blocks of 24 or 16 rows: (blocks, runs, 32 pairs, rows of the block) dwords of two bfloat16, and the sum of
// each chunk (chunks, rows). Rows beyond the caller's, and inputs beyond a run, are zero.
struct Batch {
    size_t rows, runs;  // rows: at least 16, a multiple of 8
    uint32_t* pairs;
    float* totals;

    size_t blocks() const { return (rows + 23) / 24; }
    // Where block i starts; what would be one of 8 rows after one of 24 is two of 16.
    size_t start(size_t i) const { return i == blocks() ? rows : 24 * i < rows - 16 ? 24 * i : rows - 16; }
};

inline size_t chunks_of(size_t inputs, size_t group) {
    return inputs / group * ((group + kChunk - 1) / kChunk) + (inputs % group + kChunk - 1) / kChunk;
}

struct BatchKernels {
    // blocks [first, last) from x (rows, inputs) of a float type
    void (*prepare)(const uint8_t* x, Value, size_t rows, size_t inputs, size_t group, size_t first, size_t last, Batch&);
    // y (rows, stride): panels [first, last) fill columns [16·first, 16·last) of every row
    void (*product)(const Panels&, const Batch&, size_t first, size_t last, float* y, size_t stride);
};

const BatchKernels* batch_avx512();  // nullptr where the processor lacks the instruction

}  // namespace qformat
