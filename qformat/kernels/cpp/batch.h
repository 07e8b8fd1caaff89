// Products with many rows of bfloat16 activations, on CPUs that multiply pairs of bfloat16.
#pragma once

#include "kernels.h"

namespace qformat {

constexpr size_t kBatch = 256;  // rows of x in one go at most: their sums for a panel stay in the nearest cache
constexpr size_t kChunk = 512;  // inputs of a group whose weights are held at a time: 16 KiB

// How many rows of x are multiplied in one go at most, and how they are cut: into blocks of `rows`, the last ones of 16, after
// as many zeros as make a multiple of `unit`.
struct Blocks {
    size_t most, rows, unit;
};

// Activations by blocks: dwords of two bfloat16, in the order of the instruction set, and the sum of each chunk (chunks, rows).
// Rows beyond the caller's, and inputs beyond a run, are zero.
struct Batch {
    size_t rows, runs;  // rows: at least 16
    size_t block;
    uint32_t* pairs;
    float* totals;

    size_t blocks() const { return (rows + block - 1) / block; }
    // Where block i starts; what would be one of 8 rows after one of 24 is two of 16.
    size_t start(size_t i) const { return i == blocks() ? rows : block * i < rows - 16 ? block * i : rows - 16; }
};

inline size_t chunks_of(size_t inputs, size_t group) {
    return inputs / group * ((group + kChunk - 1) / kChunk) + (inputs % group + kChunk - 1) / kChunk;
}

struct BatchKernels {
    Blocks blocks;
    // blocks [first, last) from x (rows, inputs) of a float type
    void (*prepare)(const uint8_t* x, Value, size_t rows, size_t inputs, size_t group, size_t first, size_t last, Batch&);
    // y (rows, stride): panels [first, last) fill columns [16·first, 16·last) of every row
    void (*product)(const Panels&, const Batch&, size_t first, size_t last, float* y, size_t stride);
};

// nullptr where the processor lacks the instruction, or the system does not let this process have it
const BatchKernels* batch_avx512();
#if defined(QFORMAT_AMX)
const BatchKernels* batch_amx();
#else
inline const BatchKernels* batch_amx() { return nullptr; }  // a compiler that does not know it
#endif

}  // namespace qformat
