// Panels to a row-major matrix. A run's codes are brought into the order of rows; those of up to 5 bits then are lookups in a
// table of their group's finished values, made once a row and group, and wider ones are arithmetic.

namespace decode {

// scale·(start − minus) + plus, where `start` is the code less its bias, or its table entry. What a coding lacks is a
// number that changes nothing: a scale of 1, minus 0, plus −0.
struct Row {
    float scale, minus, plus;
};
static inline F32 finish(const Row& row, F32 start) { return splat(row.scale) * (start - splat(row.minus)) + splat(row.plus); }

#ifdef QF_ROUNDS_NORMALS
// Whether every number of these groups is zero or normal in float32, whatever its code: nothing overflows, and a
// difference that is not 0 is no smaller than the last place of what it is made of.
static inline bool all_normal(const panel::Header& h) {
    const U32 positive = splat(0x7FFFFFFFu);
    const F32 scale = (F32)((U32)h.scale & positive), shift = (F32)((U32)h.shift & positive);
    const I32 scales = (scale == splat(0.0f)) | ((scale > splat(0x1p-60f)) & (scale < splat(0x1p60f)));
    const I32 shifts = (shift == splat(0.0f)) | ((shift > splat(0x1p-40f)) & (shift < splat(0x1p60f)));
    return all_lanes(scales & shifts);
}
// Whether that can be: affine codes, or a table of such numbers.
static inline bool may_be_normal(const Panels& m) {
    if (!rounds_normals()) return false;
    bool normal = true;
    if (m.table)
        for (int code = 0; code < 1 << m.bits; code++) {
            const float entry = __builtin_fabsf(m.table[code]);
            normal = normal && (entry == 0.0f || (entry > 0x1p-40f && entry < 0x1p60f));
        }
    return normal;
}
#else
static inline bool all_normal(const panel::Header&) { return false; }
static inline bool may_be_normal(const Panels&) { return false; }
static inline H32 normals_to_bfloats(F32 low, F32 high) { return to_bfloats(low, high); }
#endif

template <Value DTYPE, bool NORMAL>
static inline H32 to_words(F32 low, F32 high) {
    return DTYPE == Value::float16 ? to_halves(low, high) : NORMAL ? normals_to_bfloats(low, high) : to_bfloats(low, high);
}

// A row's finished values by code, where a table of them pays: up to 16 of four bytes, up to 32 of two.
template <int BITS, Value DTYPE>
constexpr bool tabled = BITS <= (DTYPE == Value::float32 ? 4 : 5);

template <int BITS, Value DTYPE, bool NORMAL>
static inline auto make_table(const Row& row, const F32* starts) {
    const F32 low = finish(row, starts[0]);
    if constexpr (DTYPE == Value::float32) {
        return low;
    } else {
        return make_word_table(to_words<DTYPE, NORMAL>(low, BITS == 5 ? finish(row, starts[1]) : low));
    }
}

template <bool STREAM>
static inline void put(float* to, F32 v) {
    STREAM ? stream_float(to, v) : store_float(to, v);
}
template <bool STREAM>
static inline void put(uint16_t* to, H32 v) {
    STREAM ? stream_words(to, v) : store_words(to, v);
}

// `count` inputs of a row, at most 64, a line of 64 bytes at a time; only the last line of a group may be cut.
template <bool STREAM, class T, class Line>
static inline void put_run(const Line& line, int count, T* to) {
    constexpr int values = 64 / sizeof(T);
    if (count == kRun) {
#pragma GCC unroll 4
        for (int i = 0; i < kRun / values; i++) put<STREAM>(to + values * i, line(i));
        return;
    }
    for (int i = 0; values * i < count; i++) {
        const int here = count - values * i < values ? count - values * i : values;
        T part[values];
        put<false>(part, line(i));
        if (here == values) {
            put<STREAM>(to + values * i, line(i));
        } else {
            __builtin_memcpy(to + values * i, part, sizeof(T) * (size_t)here);
        }
    }
}

template <int BITS, Value DTYPE, bool STREAM, bool NORMAL, class T>
static inline void group(const Panels& m, const F32* starts, const panel::Header& h, const uint8_t* p, size_t rows, size_t inputs, T* out) {
    float scale[kRows], minus[kRows], plus[kRows];
    store_float(scale, h.scale);
    store_float(minus, m.offsets ? F32{} : h.shift);
    store_float(plus, m.offsets ? h.shift : splat(-0.0f));
    auto row = [&](size_t r) { return Row{scale[r], minus[r], plus[r]}; };
    decltype(make_table<BITS, DTYPE, NORMAL>(row(0), starts)) tables[tabled<BITS, DTYPE> ? kRows : 1];
    if (tabled<BITS, DTYPE>)
        for (size_t r = 0; r < rows; r++) tables[r] = make_table<BITS, DTYPE, NORMAL>(row(r), starts);
    Run<BITS> run;
    for (size_t start = 0; start < inputs; start += kRun) {
        const int here = inputs - start < kRun ? (int)(inputs - start) : kRun;
        run.load(p, here);
        p += panel::run_bytes<BITS>(here);
        T* to = out + start;
        auto put_row = [&](int lane, int k) __attribute__((always_inline)) {
            const size_t r = (size_t)(4 * lane + k);
            if constexpr (tabled<BITS, DTYPE>) {
                put_run<STREAM>([&](int i) { return run.lookup(tables[r], lane, k, i); }, here, to);
            } else {
                const Row its = row(r);
                auto value = [&](int i) {
                    const U32 codes = run.codes(lane, k, i);
                    return finish(its, m.table ? gather(m.table, codes) : to_float(codes) - splat(m.bias));
                };
                if constexpr (DTYPE == Value::float32) {
                    put_run<STREAM>(value, here, to);
                } else {
                    put_run<STREAM>([&](int i) { return to_words<DTYPE, NORMAL>(value(2 * i), value(2 * i + 1)); }, here, to);
                }
            }
            to += m.inputs;
        };
        // the rows of a lane are unrolled: what they take is constant but for the lane
        int lane = 0;
        for (; 4 * (size_t)lane + 4 <= rows; lane++) {
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) put_row(lane, k);
        }
        for (int k = 0; 4 * (size_t)lane + (size_t)k < rows; k++) put_row(lane, k);
    }
}

// Panels [first, last) to `out`, where the first of their rows starts. `STREAM`: rows and groups are whole lines of 64
// bytes, aligned, and are written past the cache.
template <int BITS, Value DTYPE, bool STREAM, class T>
static void panels(const Panels& m, size_t first, size_t last, T* out) {
    const size_t groups = (m.inputs + m.group - 1) / m.group;
    const bool normals = DTYPE == Value::bfloat16 && may_be_normal(m);
    F32 starts[2] = {};
    if (BITS <= 5)
        for (int i = 0; i < 32; i++) {
            const int code = i & ((1 << BITS) - 1);
            starts[i / 16][i % 16] = m.table ? m.table[code] : (float)code - m.bias;
        }
    for (size_t panel = first; panel < last; panel++) {
        const uint8_t* p = m.codes + panel * m.panel_bytes;
        const size_t rows = m.rows - kRows * panel < kRows ? m.rows - kRows * panel : kRows;
        for (size_t g = 0; g < groups; g++) {
            const panel::Header h = panel::read_header(m, p, panel * groups + g);
            const size_t inputs = g + 1 < groups ? m.group : m.inputs - g * m.group;
            T* to = out + kRows * (panel - first) * m.inputs + g * m.group;
            p += m.header_bytes;
            if (normals && all_normal(h)) {
                group<BITS, DTYPE, STREAM, DTYPE == Value::bfloat16>(m, starts, h, p, rows, inputs, to);
            } else {
                group<BITS, DTYPE, STREAM, false>(m, starts, h, p, rows, inputs, to);
            }
            p += inputs / kRun * panel::run_bytes<BITS>(kRun) + panel::run_bytes<BITS>((int)(inputs % kRun));
        }
    }
    if (STREAM) fence();
}

template <int BITS, Value DTYPE, class T>
static void choose(const Panels& m, size_t first, size_t last, bool stream, T* out) {
    constexpr size_t line = 64 / sizeof(T);
    const bool lines = (uintptr_t)out % 64 == 0 && m.inputs % line == 0 && (m.group % line == 0 || m.group >= m.inputs);
    if (stream && lines) {
        panels<BITS, DTYPE, true>(m, first, last, out);
    } else {
        panels<BITS, DTYPE, false>(m, first, last, out);
    }
}

}  // namespace decode
