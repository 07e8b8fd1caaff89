// Row-major floats times float32 activations: one forward stream, four sums a row that are added in a fixed order.

namespace dense {

template <Value DTYPE>
static inline F32 load(const uint8_t* p) {
    return DTYPE == Value::float16 ? load_half(p) : DTYPE == Value::bfloat16 ? load_bfloat(p) : load_float(p);
}

static inline float add_lanes(F32 v) {
    float sum = 0;
    for (int lane = 0; lane < 16; lane++) sum += v[lane];
    return sum;
}

template <Value DTYPE, int B>
static void rows(const Dense& m, const float* x, int batch, size_t first, size_t last, float* y, size_t stride) {
    constexpr size_t size = DTYPE == Value::float32 ? 4 : 2;
    for (size_t row = first; row < last; row++) {
        const uint8_t* p = m.values + row * m.inputs * size;
        F32 sum[B][4] = {};
        size_t i = 0;
        for (; i + 64 <= m.inputs; i += 64) {
            ask_ahead(p + i * size, 64 * size);
#pragma GCC unroll 4
            for (int part = 0; part < 4; part++) {
                const F32 w = load<DTYPE>(p + (i + 16 * (size_t)part) * size);
                for (int b = 0; b < B; b++)
                    sum[b][part] = fma(w, load_float(x + (size_t)b * m.inputs + i + 16 * (size_t)part), sum[b][part]);
            }
        }
        for (; i < m.inputs; i += 16) {
            uint8_t tail[64] = {};
            float tail_x[16] = {};
            const size_t count = m.inputs - i < 16 ? m.inputs - i : 16;
            __builtin_memcpy(tail, p + i * size, count * size);
            const F32 w = load<DTYPE>(tail);
            for (int b = 0; b < B; b++) {
                __builtin_memcpy(tail_x, x + (size_t)b * m.inputs + i, count * sizeof(float));
                sum[b][0] = fma(w, load_float(tail_x), sum[b][0]);
            }
        }
        for (int b = 0; b < batch; b++) y[(size_t)b * stride + row] = add_lanes((sum[b][0] + sum[b][1]) + (sum[b][2] + sum[b][3]));
    }
}

template <Value DTYPE>
static void batches(const Dense& m, const float* x, int batch, size_t first, size_t last, float* y, size_t stride) {
    for (; batch >= 4; batch -= 4, x += 4 * m.inputs, y += 4 * stride) rows<DTYPE, 4>(m, x, 4, first, last, y, stride);
    for (; batch >= 1; batch -= 1, x += m.inputs, y += stride) rows<DTYPE, 1>(m, x, 1, first, last, y, stride);
}

static void matvec(const Dense& m, const float* x, int batch, size_t first, size_t last, float* y, size_t stride) {
    if (m.dtype == Value::float16) {
        batches<Value::float16>(m, x, batch, first, last, y, stride);
    } else if (m.dtype == Value::bfloat16) {
        batches<Value::bfloat16>(m, x, batch, first, last, y, stride);
    } else {
        batches<Value::float32>(m, x, batch, first, last, y, stride);
    }
}

}  // namespace dense
