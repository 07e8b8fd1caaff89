// Activations made ready for the panel kernels: runs of up to 64 inputs that do not cross a group, padded with zeros.

namespace activations {

static inline F32 load(Value kind, const uint8_t* p) {
    return kind == Value::float32 ? load_float(p) : kind == Value::bfloat16 ? load_bfloat(p) : load_half(p);
}

// `count` numbers of x as float32, zeros after them.
static inline void widen_run(Value kind, const uint8_t* x, int count, F32* values) {
    const int size = kind == Value::float32 ? 4 : 2;
    int i = 0;
    for (; i + 16 <= count; i += 16) values[i / 16] = load(kind, x + i * size);
    if (i < count) {
        uint8_t rest[64] = {};
        __builtin_memcpy(rest, x + i * size, (size_t)((count - i) * size));
        values[i / 16] = load(kind, rest);
        i += 16;
    }
    for (; i < kRun; i += 16) values[i / 16] = F32{};
}

static inline I32 round_to_int(F32 v) { return __builtin_convertvector(v + (v < 0.0f ? splat(-0.5f) : splat(0.5f)), I32); }

// All sixteen lanes joined into one, halving by halving.
template <class V, class Join>
static inline auto fold(V v, Join join) {
    v = join(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = join(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = join(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    v = join(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
    return v[0];
}
template <class V>
static inline auto fold_sum(V v) {
    return fold(v, [](V a, V b) { return a + b; });
}

// Dynamic 8-bit activations, one scale a run: code = round(x · 127 / max|x|). Returns scale · Σ codes.
static float quantize_run(const F32* x, int8_t* codes, float* scale, float* sum) {
    I32 top = {};  // of the magnitudes' bits, which are in the order of the magnitudes, infinity and NaN above all
    for (int i = 0; i < 4; i++) {
        const I32 magnitude = (I32)x[i] & 0x7FFFFFFF;
        top = top < magnitude ? magnitude : top;
    }
    const int bits = fold(top, [](I32 a, I32 b) { return a < b ? b : a; });
    if (bits >= 0x7F800000) {  // an infinity or a NaN among them: the result is NaN, as it is in floating point
        __builtin_memset(codes, 0, kRun);
        *sum = 0;
        return *scale = __builtin_nanf("");
    }
    float largest;
    __builtin_memcpy(&largest, &bits, 4);
    const F32 inverse = splat(largest >= 1.0e-36f ? 127.0f / largest : 0.0f);  // that of less is infinite: it counts as nothing
    I32 total = {};
    for (int i = 0; i < 4; i++) {
        const I32 rounded = round_to_int(x[i] * inverse);
        const I8 narrow = __builtin_convertvector(rounded, I8);
        __builtin_memcpy(codes + 16 * i, &narrow, 16);
        total += rounded;
    }
    *scale = largest / 127.0f;
    *sum = (float)fold_sum(total);
    return *scale * *sum;
}

// bfloat16 activations in the order of the dot product: inputs 0 2, 1 3 of every four. Returns Σ x.
static float pair_run(const F32* x, uint16_t* pairs) {
    F32 total = {};
    for (int i = 0; i < 4; i++) {
        H16u ordered;
        store_bfloat((uint16_t*)&ordered, x[i]);
        *(H16u*)(pairs + 16 * i) = __builtin_shufflevector(ordered, ordered, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
        total += x[i];
    }
    return fold_sum(total);
}

// x (rows, inputs) of `kind`, for a matrix with this group size.
static void prepare(const uint8_t* x, Value kind, size_t inputs, size_t group, Mode mode, Activations& a) {
    const size_t size = kind == Value::float32 ? 4 : 2;
    size_t run = 0, index = 0;
    for (size_t start = 0; start < inputs; start += group, index++) {
        const size_t end = start + group < inputs ? start + group : inputs;
        for (int b = 0; b < a.batch; b++) a.totals[index * (size_t)a.batch + (size_t)b] = 0;
        for (size_t at = start; at < end; at += kRun, run++) {
            const int count = end - at < kRun ? (int)(end - at) : kRun;
            for (int b = 0; b < a.batch; b++) {
                const size_t slot = run * (size_t)a.batch + (size_t)b;
                F32 values[4] = {};
                if (b < a.rows) widen_run(kind, x + ((size_t)b * inputs + at) * size, count, values);
                float& total = a.totals[index * (size_t)a.batch + (size_t)b];
                if (mode == Mode::int8) {
                    total += quantize_run(values, a.codes + kRun * slot, a.scales + slot, a.sums + slot);
                } else if (mode == Mode::bfloat16) {
                    total += pair_run(values, a.pairs + kRun * slot);
                } else {
                    __builtin_memcpy(a.values + kRun * slot, values, sizeof values);
                }
            }
        }
    }
}

}  // namespace activations
