// Products of panel matrices with x, over the threads of the pool.
#pragma once

#include <span>

#include "batch.h"
#include "kernels.h"

namespace qformat::products {

// x (rows, inputs) and y (rows, out_features) of float types, row-major.
struct Input {
    const uint8_t* data;
    Value kind;
    size_t rows;
};
struct Output {
    uint8_t* data;
    Value kind;
};

// The mode in which `m` is multiplied where `mode` is asked for: itself, or one that is always there and never less exact.
Mode mode_for(const Kernels& kernels, const Panels& m, Mode mode);

// y_i = x · matrix_iᵀ, read for every eight rows of x. All matrices have as many inputs; x is made ready once and one loop
// goes over the panels of all that follow each other with equal groups and modes. What they give is what each alone would.
void few(const Kernels& kernels, std::span<const Panels* const> matrices, Mode mode, Input x, std::span<const Output> out);

// The same of one matrix that is read once for every 128 or 256 rows of x, in `exact` products of bfloat16.
void many(const BatchKernels& kernels, const Panels& m, Input x, float* out);

}  // namespace qformat::products
