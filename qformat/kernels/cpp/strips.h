// Codings whose weights are decoded before they are multiplied: a piece of the matrix at a time, small enough to be in the
// nearest cache when it is used. Each offers a decoder of rectangles for every instruction set; the rest is the same for all.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels.h"
#include "stream.h"

namespace qformat {

// Rows [first, last) and inputs [left, right).
struct Rectangle {
    size_t first, last, left, right;
};

// The weights of a rectangle, bit for bit as the numpy decoder gives them: row `first` to `out`, the next `stride` floats behind.
// `coded` is the view that the coding has of the matrix. Nothing else is written.
using DecodeRectangle = void (*)(const void* coded, const Rectangle&, float* out, size_t stride);

enum class Isa : int { generic = 0, avx2 = 1, avx512 = 2 };

struct Strips {
    const void* coded;
    DecodeRectangle decode[3];  // by instruction set; nullptr where this build has none
    size_t rows, inputs;
    size_t height, width;  // rectangles start at multiples of these, and end there or where the matrix ends
    bool normal;           // every weight is zero or a normal number of float32

    // Rows and inputs of a piece. They do not depend on the threads, or sums would.
    size_t piece_rows() const { return height % kAbreast && kAbreast * width <= kPiece ? kAbreast * height : height; }
    size_t piece_inputs() const { return std::min(inputs, std::max<size_t>(1, kPiece / piece_rows() / width) * width); }
    size_t pieces_down() const { return (rows + piece_rows() - 1) / piece_rows(); }

    static constexpr size_t kPiece = 4096;  // weights
    static constexpr size_t kAbreast = 4;   // rows that are multiplied side by side
};

// A piece of weights, row-major.
struct Piece {
    const float* weights;
    size_t rows, inputs, stride;
};

struct StripKernels {
    Isa isa;
    // sums[b, r, lane] = the products of a lane's inputs, added to what is there if `more`; rows of x lie `x_stride` apart
    void (*multiply)(const Piece&, const float* x, size_t x_stride, size_t batch, bool more, Line* sums);
    // y[b, r] = Σ sums[b, r, lane]; rows of y lie `y_stride` apart
    void (*finish)(const Line* sums, size_t rows, size_t batch, float* y, size_t y_stride);
    // The weights as `dtype`, rows `stride` bytes apart; `stream`: past the caches, then rows and places are whole lines.
    void (*store)(const Piece&, Value dtype, bool stream, bool normal, uint8_t* out, size_t stride);
    void (*fence)();  // after `store` with `stream`, before another thread may read
};

const StripKernels* strips_generic();
const StripKernels* strips_avx2();
const StripKernels* strips_avx512();

}  // namespace qformat
