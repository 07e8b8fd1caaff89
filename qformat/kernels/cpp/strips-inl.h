// Pieces of decoded weights, multiplied or written: the part that is compiled for each instruction set, inside its namespace.
// What includes this says how many rows of a piece and of x go abreast (kRowsAbreast, kBatchAbreast), as many as its registers hold
// sums for, and loads weights (load_once) so that they are not loaded again for each row of x.

#include "target-inl.h"

namespace strips {

// All lanes, halving by halving.
static inline float sum_of(F32 v) {
    v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    return v[0];
}

// R rows of a piece times B rows of x, whose sums lie `next` apart. Each sum is of two chains, whatever R and B are.
template <size_t R, size_t B>
static void block(const float* weights, size_t stride, size_t inputs, const float* x, size_t x_stride, bool more, Line* to, size_t next) {
    F32 sums[R][B][2] = {};
    if (more)
#pragma GCC unroll 4
        for (size_t r = 0; r < R; r++)
#pragma GCC unroll 4
            for (size_t b = 0; b < B; b++) sums[r][b][0] = load_float(to + b * next + r);
    const auto add = [&](auto weight, auto input, size_t chain) __attribute__((always_inline)) {
        F32 in[B];
#pragma GCC unroll 4
        for (size_t b = 0; b < B; b++) in[b] = input(b);
#pragma GCC unroll 4
        for (size_t r = 0; r < R; r++) {
            const F32 w = weight(r);
#pragma GCC unroll 4
            for (size_t b = 0; b < B; b++) sums[r][b][chain] = fma(w, in[b], sums[r][b][chain]);
        }
    };
    size_t i = 0;
    for (; i + 32 <= inputs; i += 32) {
#pragma GCC unroll 2
        for (size_t half = 0; half < 2; half++) {
            const size_t at = i + 16 * half;
            add([&](size_t r) { return load_once(weights + r * stride + at); }, [&](size_t b) { return load_float(x + b * x_stride + at); }, half);
        }
    }
    for (; i < inputs; i += 16) {
        const size_t here = std::min<size_t>(16, inputs - i);
        const auto some = [&](const float* from) {
            float part[16] = {};
            __builtin_memcpy(part, from + i, 4 * here);
            return load_float(part);
        };
        add([&](size_t r) { return some(weights + r * stride); }, [&](size_t b) { return some(x + b * x_stride); }, 0);
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < R; r++)
#pragma GCC unroll 4
        for (size_t b = 0; b < B; b++) store_float((float*)(to + b * next + r), sums[r][b][0] + sums[r][b][1]);
}

template <size_t B>
static void batch_of(const Piece& p, const float* x, size_t x_stride, bool more, Line* sums) {
    size_t r = 0;
    for (; r + kRowsAbreast <= p.rows; r += kRowsAbreast)
        block<kRowsAbreast, B>(p.weights + r * p.stride, p.stride, p.inputs, x, x_stride, more, sums + r, p.rows);
    for (; r < p.rows; r++) block<1, B>(p.weights + r * p.stride, p.stride, p.inputs, x, x_stride, more, sums + r, p.rows);
}

static void multiply(const Piece& p, const float* x, size_t x_stride, size_t batch, bool more, Line* sums) {
    size_t b = 0;
    for (; b + kBatchAbreast <= batch; b += kBatchAbreast) batch_of<kBatchAbreast>(p, x + b * x_stride, x_stride, more, sums + b * p.rows);
    for (; b < batch; b++) batch_of<1>(p, x + b * x_stride, x_stride, more, sums + b * p.rows);
}

static void finish(const Line* sums, size_t rows, size_t batch, float* y, size_t y_stride) {
    for (size_t b = 0; b < batch; b++)
        for (size_t r = 0; r < rows; r++) y[b * y_stride + r] = sum_of(load_float(sums + b * rows + r));
}

template <Value DTYPE>
static void store_rows(const Piece& p, const Target& target, uint8_t* out, size_t stride) {
    constexpr size_t line = DTYPE == Value::float32 ? 16 : 32;
    for (size_t r = 0; r < p.rows; r++) {
        const float* from = p.weights + r * p.stride;
        uint8_t* to = out + r * stride;
        size_t i = 0;
        for (; i + line <= p.inputs; i += line) {
            const F32 low = load_float(from + i);
            target.put<DTYPE>(to + target.size() * i, low, DTYPE == Value::float32 ? low : load_float(from + i + 16));
        }
        target.put_some<DTYPE>(to + target.size() * i, from + i, p.inputs - i);
    }
}

static void store(const Piece& p, Value dtype, bool stream, bool normal, uint8_t* out, size_t stride) {
    const Target target{dtype, stream, normal && rounds_normals()};
    if (dtype == Value::float32) return store_rows<Value::float32>(p, target, out, stride);
    if (dtype == Value::bfloat16) return store_rows<Value::bfloat16>(p, target, out, stride);
    store_rows<Value::float16>(p, target, out, stride);
}

}  // namespace strips
