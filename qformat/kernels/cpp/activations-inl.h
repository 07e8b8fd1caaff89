// Activations made ready for the panel kernels: runs of up to 64 inputs that do not cross a group, padded with zeros.

namespace activations {

// Calls run(index, first input, inputs) for every run.
template <class Run>
static void for_each_run(size_t inputs, size_t group, Run run) {
    size_t index = 0;
    for (size_t start = 0; start < inputs; start += group) {
        const size_t end = start + group < inputs ? start + group : inputs;
        for (size_t at = start; at < end; at += kRun, index++) run(index, at, (int)(end - at < kRun ? end - at : kRun));
    }
}

static inline int8_t round_to_int8(float v) { return (int8_t)(int)(v + (v < 0 ? -0.5f : 0.5f)); }

// Dynamic 8-bit activations, one scale a run: code = round(x · 127 / max|x|).
static void quantize_run(const float* x, int inputs, int8_t* codes, float* scale, float* sum) {
    float top = 0, finite = 0;
    for (int i = 0; i < inputs; i++) {
        top = __builtin_fmaxf(top, __builtin_fabsf(x[i]));
        finite += x[i] * 0.0f;
    }
    if (finite != 0.0f) {  // an infinity or a NaN among them: the result is NaN, as it is in floating point
        for (int i = 0; i < kRun; i++) codes[i] = 0;
        *scale = __builtin_nanf("");
        *sum = 0;
        return;
    }
    const float inverse = top > 0 ? 127.0f / top : 0.0f;
    int total = 0;
    for (int i = 0; i < inputs; i++) {
        codes[i] = round_to_int8(x[i] * inverse);
        total += codes[i];
    }
    for (int i = inputs; i < kRun; i++) codes[i] = 0;
    *scale = top / 127.0f;
    *sum = (float)total;
}

static void pair_run(const float* x, int inputs, uint16_t* pairs, float* sum) {
    float total = 0;
    for (int i = 0; i < kRun; i++) {
        const int slot = (i & ~3) | (i & 1) << 1 | (i & 2) >> 1;  // 0 1 2 3 → 0 2 1 3
        pairs[slot] = i < inputs ? to_bfloat(x[i]) : 0;
        if (i < inputs) total += x[i];
    }
    *sum = total;
}

static void prepare(const float* x, size_t inputs, size_t group, Mode mode, Activations& a) {
    static const float nothing[kRun] = {};
    for_each_run(inputs, group, [&](size_t run, size_t start, int count) {
        for (int b = 0; b < a.batch; b++) {
            const float* row = b < a.rows ? x + (size_t)b * inputs + start : nothing;
            const size_t at = run * (size_t)a.batch + (size_t)b;
            if (mode == Mode::int8) {
                quantize_run(row, count, a.codes + kRun * at, a.scales + at, a.sums + at);
            } else if (mode == Mode::bfloat16) {
                pair_run(row, count, a.pairs + kRun * at, a.sums + at);
            } else {
                __builtin_memcpy(a.values + kRun * at, row, (size_t)count * sizeof(float));
                __builtin_memset(a.values + kRun * at + count, 0, (size_t)(kRun - count) * sizeof(float));
            }
        }
    });
}

}  // namespace activations
