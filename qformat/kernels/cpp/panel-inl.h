// The panel kernels, written once over the vocabulary and compiled once per instruction set.
//
// A panel is 16 rows. Its groups follow each other along the input: a header (16 scales, 16 zeros), then runs of up to
// 64 inputs. A run is one or more planes of 1, 2, 4 or 8 bits; a plane is columns of 16 dwords, and byte k, field j of
// a dword holds input 4j + k of the column, so that shift and mask give four inputs to one dot-product instruction.

namespace panel {

// Widths of the planes of a code, low bits first: 3 = 2+1, 5 = 4+1, 6 = 4+2, 7 = 4+2+1.
template <int BITS> struct Planes;
template <> struct Planes<1> { static constexpr int count = 1, width[3] = {1, 0, 0}; };
template <> struct Planes<2> { static constexpr int count = 1, width[3] = {2, 0, 0}; };
template <> struct Planes<3> { static constexpr int count = 2, width[3] = {2, 1, 0}; };
template <> struct Planes<4> { static constexpr int count = 1, width[3] = {4, 0, 0}; };
template <> struct Planes<5> { static constexpr int count = 2, width[3] = {4, 1, 0}; };
template <> struct Planes<6> { static constexpr int count = 2, width[3] = {4, 2, 0}; };
template <> struct Planes<7> { static constexpr int count = 3, width[3] = {4, 2, 1}; };
template <> struct Planes<8> { static constexpr int count = 1, width[3] = {8, 0, 0}; };

static inline int columns_of(int inputs, int width) { return (inputs * width + 31) / 32; }

template <int BITS>
static inline size_t run_bytes(int inputs) {
    size_t dwords = 0;
    for (int p = 0; p < Planes<BITS>::count; p++) dwords += (size_t)columns_of(inputs, Planes<BITS>::width[p]);
    return dwords * 64;
}

template <int W>
static constexpr uint32_t byte_mask() { return W == 8 ? 0xFFFFFFFFu : 0x01010101u * ((1u << W) - 1); }

static inline F32 load_values(Value kind, const uint8_t* stored, int bits, const float* external) {
    switch (kind) {
        case Value::float16: return load_half(stored);
        case Value::bfloat16: return load_bfloat(stored);
        case Value::float32: return load_float(stored);
        case Value::packed: return load_packed(stored, bits);
        case Value::external: return load_float(external);
        case Value::none: break;
    }
    return splat(0.0f);
}

// One group's scales and the number taken from (or added to) its codes.
struct Header {
    F32 scale, shift;
};

static inline Header read_header(const Panels& m, const uint8_t* p, size_t at) {
    Header h;
    h.scale = m.scales == Value::none ? splat(1.0f) : load_values(m.scales, p, 0, m.scale_values + 16 * at);
    h.shift = load_values(m.zeros, p + m.zeros_at, m.zero_bits, m.zero_values + 16 * at);
    return h;
}

// Chains of additions for each row of a batch, where weights are floats: one alone waits four cycles for each addition.
template <int BITS, int B> constexpr int kChains = B > 1 || !kSeveralChains ? 1 : BITS <= 4 ? 4 : 2;

#ifdef QF_HALVES
#include QF_HALVES
#endif

// -- int8 activations ---------------------------------------------------------------------------------------------

// dot[b] += (codes · x[b]) << shift over the columns of one plane: COLUMNS of them, or, if that is 0, `columns`. `x` holds
// 64 bytes per row of the batch. With a table, the codes are looked up first: its entries are bytes around 128.
#ifndef QF_HALVES
// Fields of codes that are multiplied as numbers need no shift per register: each is masked where it lies and summed in
// an accumulator of its own, which is shifted down once. One-bit fields are folded once, which leaves four places.
template <int W, bool TABLE, int B, int COLUMNS>
QF_INLINE void dot_plane(const uint8_t* p, const int8_t* x, int columns, int shift, const ByteTable& table, I32* dot) {
    constexpr int fields = 8 / W, places = fields < 4 ? fields : 4;
    constexpr bool in_place = !TABLE && W < 8 && places * B <= 16;
    constexpr int sums = in_place ? places : 2;  // two chains at least hide the latency of the dot product
    I32 acc[sums * B] = {};
    auto column = [&](int c) {
        const U32 dwords = load_codes(p + 64 * c), folded = W == 1 ? dwords >> 4 : dwords;
#pragma GCC unroll 8
        for (int j = 0; j < fields; j++) {
            const U32 from = in_place && j >= places ? folded : dwords;
            const U32 field = W == 8     ? dwords
                              : in_place ? from & splat(byte_mask<W>() << (j % places * W))
                                         : (dwords >> (j * W)) & splat(byte_mask<W>());
            const U32 codes = TABLE ? lut_bytes<W>(table, field) : field;
#pragma GCC unroll 8
            for (int b = 0; b < B; b++) {
                I32& sum = acc[sums * b + (c * fields + j) % sums];
                sum = dot4<TABLE ? 8 : W>(sum, codes, x + 64 * b + 4 * (c * fields + j));
            }
        }
    };
    if constexpr (COLUMNS > 0) {
#pragma GCC unroll 16
        for (int c = 0; c < COLUMNS; c++) column(c);
    } else {
        for (int c = 0; c < columns; c++) column(c);
    }
    for (int b = 0; b < B; b++) {
        I32 sum = acc[sums * b];
#pragma GCC unroll 4
        for (int j = 1; j < sums; j++) sum += in_place ? acc[sums * b + j] >> (j * W) : acc[sums * b + j];
        dot[b] += sum << shift;
    }
}
#endif

// A run of 64 inputs at 3 bits: the planes are joined first, which halves the products. Two codes of a byte are masked where
// they lie, the upper ones into sums of their own.
template <int B>
QF_INLINE void dot_three(const uint8_t* p, const int8_t* x, I32* dot) {
    I32 low[B] = {}, high[B] = {};
    auto pair = [&](U32 codes, int input) {
        const U32 lower = codes & splat(0x07070707u), upper = codes & splat(0x70707070u);
#pragma GCC unroll 8
        for (int b = 0; b < B; b++) {
            low[b] = dot4<3>(low[b], lower, x + 64 * b + input);
            high[b] = dot4<3>(high[b], upper, x + 64 * b + input + 8);
        }
    };
#pragma GCC unroll 2
    for (int c = 0; c < 2; c++) {
        const U32 ones = load_codes(p + 64 * (4 + c)), first = load_codes(p + 128 * c), second = load_codes(p + 128 * c + 64);
        pair(join_three<0, 0>(first, ones), 32 * c);
        pair(join_three<1, 0>(first, ones), 32 * c + 4);
        pair(join_three<0, 4>(second, ones), 32 * c + 16);
        pair(join_three<1, 4>(second, ones), 32 * c + 20);
    }
    for (int b = 0; b < B; b++) dot[b] = low[b] + (high[b] >> 4);
}

// One run: FULL ones have 64 inputs, and for one row of x their loops are unrolled.
template <int BITS, bool TABLE, int B, bool FULL>
QF_INLINE void dot_run(const uint8_t* p, const int8_t* x, int inputs, const ByteTable& table, I32* dot) {
    using P = Planes<BITS>;
    if constexpr (BITS == 3 && FULL && !TABLE && kJoinsThree) return dot_three<B>(p, x, dot);
    constexpr int unrolled = FULL && B == 1 && !TABLE ? 2 : 0;
    for (int b = 0; b < B; b++) dot[b] = I32{};
    int columns = FULL ? 2 * P::width[0] : columns_of(inputs, P::width[0]);
    dot_plane<P::width[0], TABLE, B, unrolled * P::width[0]>(p, x, columns, 0, table, dot);
    if constexpr (P::count > 1) {
        p += 64 * columns;
        columns = FULL ? 2 * P::width[1] : columns_of(inputs, P::width[1]);
        dot_plane<P::width[1], TABLE, B, unrolled * P::width[1]>(p, x, columns, P::width[0], table, dot);
    }
    if constexpr (P::count > 2) {
        p += 64 * columns;
        columns = FULL ? 2 * P::width[2] : columns_of(inputs, P::width[2]);
        dot_plane<P::width[2], TABLE, B, unrolled * P::width[2]>(p, x, columns, P::width[0] + P::width[1], table, dot);
    }
}

static inline int8_t round_to_int8(float v) { return (int8_t)(int)(v + (v < 0 ? -0.5f : 0.5f)); }

// The entries of a lookup table as bytes: 128 + round(127 · entry / max|entry|). Returns max|entry| / 127.
static inline float byte_entries(const float* table, int count, uint8_t* entries) {
    float top = 0;
    for (int i = 0; i < count; i++) top = __builtin_fmaxf(top, __builtin_fabsf(table[i]));
    const float inverse = top >= 1.0e-36f ? 127.0f / top : 0.0f;
    __builtin_memset(entries, 128, 256);
    for (int i = 0; i < count; i++) entries[i] = (uint8_t)(128 + round_to_int8(table[i] * inverse));
    return top / 127.0f;
}

template <int BITS, bool TABLE, int B>
static void matvec_int8(const Panels& m, const Activations& x, size_t first, size_t last, float* out, size_t stride) {
    const F32 bias = splat(TABLE ? 128.0f : m.bias);
    const size_t groups = (m.inputs + m.group - 1) / m.group;
    uint8_t entries[256] = {};
    const F32 unit = splat(TABLE ? byte_entries(m.table, 1 << BITS, entries) : 1.0f);
    const ByteTable table = make_byte_table(entries);
    for (size_t panel = first; panel < last; panel++) {
        const uint8_t* p = m.codes + panel * m.panel_bytes;
        size_t run = 0;
        F32 y[B] = {};
        for (size_t g = 0; g < groups; g++) {
            const Header h = read_header(m, p, panel * groups + g);
            ask_ahead(p, (size_t)m.header_bytes);
            p += m.header_bytes;
            size_t left = g + 1 < groups ? m.group : m.inputs - g * m.group;
            F32 sum[B] = {};
            for (; left; run++) {
                const int inputs = left < kRun ? (int)left : kRun;
                const int8_t* codes = x.codes + run * (size_t)(kRun * B);
                I32 dot[B];
                ask_ahead(p, run_bytes<BITS>(inputs));
                if (inputs == kRun) {
                    dot_run<BITS, TABLE, B, true>(p, codes, kRun, table, dot);
                } else {
                    dot_run<BITS, TABLE, B, false>(p, codes, inputs, table, dot);
                }
                for (int b = 0; b < B; b++) {
                    if (BITS == 8 || TABLE) dot[b] = finish_dot8(dot[b], I32{} + (int)x.sums[run * B + b]);
                    sum[b] = fma(to_float(dot[b]), splat(x.scales[run * B + b]), sum[b]);
                }
                p += run_bytes<BITS>(inputs);
                left -= (size_t)inputs;
            }
            for (int b = 0; b < B; b++) {
                const F32 xs = splat(x.totals[g * B + b]);
                if (m.offsets) {
                    y[b] = fma(h.scale, sum[b] - bias * xs, fma(h.shift, xs, y[b]));
                } else {
                    y[b] = fma(TABLE ? unit * h.scale : h.scale, sum[b] - (h.shift + bias) * xs, y[b]);
                }
            }
        }
        for (int b = 0; b < B; b++) store_float(out + (size_t)b * stride + kRows * panel, y[b]);
    }
}

// -- float activations: each weight is made exactly as the decoder makes it, then multiplied ------------------------

#ifndef QF_HALVES
// The codes of input `i` of a unit of 32 inputs, in every row: `p[plane]` is where the unit's columns start. Up to 4 bits index
// a table that repeats itself, by their low four bits, so what lies above a code of one plane may stay.
template <int BITS>
static inline U32 codes_of(const uint8_t* const* p, int i) {
    const auto field = [&](int plane) {
        const int w = Planes<BITS>::width[plane], per_column = 32 / w, inside = i % per_column;
        return load_codes(p[plane] + 64 * (i / per_column)) >> (8 * (inside % 4) + w * (inside / 4));
    };
    if constexpr (BITS <= 4 && Planes<BITS>::count == 1) return field(0);
    U32 codes = {};
    int at = 0;
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes<BITS>::count; plane++) {
        codes |= (field(plane) & splat((1u << Planes<BITS>::width[plane]) - 1)) << at;
        at += Planes<BITS>::width[plane];
    }
    return codes;
}

// sum[b] += weights · x[b] over a unit of up to 32 inputs.
template <int BITS, bool TABLE, int B>
QF_INLINE void float_unit(const Panels& m, const Header& h, const F32& small, const uint8_t* const* planes, const float* values, int inputs,
                          F32* sum) {
    constexpr int chains = kChains<BITS, B>;
    F32 parts[chains * B] = {};
    const auto step = [&](int i, F32* part) {
        const U32 codes = codes_of<BITS>(planes, i);
        F32 w = BITS <= 4 ? lut16(small, codes) : TABLE ? gather(m.table, codes) : to_float(codes) - splat(m.bias);
        if (!TABLE) w = m.offsets ? h.scale * w + h.shift : w - h.shift;
#pragma GCC unroll 8
        for (int b = 0; b < B; b++) part[b] = fma(w, splat(values[kRun * b + i]), part[b]);
    };
    if (inputs == 32) {
#pragma GCC unroll 32
        for (int i = 0; i < 32; i++) step(i, parts + i % chains * B);
    } else {
        for (int i = 0; i < inputs; i++) step(i, parts);
    }
#pragma GCC unroll 8
    for (int i = 0; i < chains * B; i++) sum[i % B] += parts[i];
}
#endif

template <int BITS, bool TABLE, int B>
static void matvec_float(const Panels& m, const Activations& x, size_t first, size_t last, float* out, size_t stride) {
    const size_t groups = (m.inputs + m.group - 1) / m.group;
    F32 small = {};  // the decoded values of codes of up to 4 bits
    if (BITS <= 4) {
        for (int code = 0; code < 16; code++) {
            const int valid = code & ((1 << BITS) - 1);
            small[code] = TABLE ? m.table[valid] : (float)valid - m.bias;
        }
    }
    for (size_t panel = first; panel < last; panel++) {
        const uint8_t* p = m.codes + panel * m.panel_bytes;
        size_t run = 0;
        F32 y[B] = {};
        for (size_t g = 0; g < groups; g++) {
            const Header h = read_header(m, p, panel * groups + g);
            ask_ahead(p, (size_t)m.header_bytes);
            p += m.header_bytes;
            size_t left = g + 1 < groups ? m.group : m.inputs - g * m.group;
            F32 sum[B] = {};
            for (; left; run++) {
                const int inputs = left < kRun ? (int)left : kRun;
                const uint8_t* planes[3];
                size_t bytes = 0;
                for (int plane = 0; plane < Planes<BITS>::count; plane++) {
                    planes[plane] = p + bytes;
                    bytes += 64 * (size_t)columns_of(inputs, Planes<BITS>::width[plane]);
                }
                ask_ahead(p, bytes);
                for (int unit = 0; unit < inputs; unit += 32) {
                    const int here = inputs - unit < 32 ? inputs - unit : 32;
                    const float* values = x.values + run * (size_t)(kRun * B) + unit;
                    float_unit<BITS, TABLE, B>(m, h, small, planes, values, here, sum);
                    for (int plane = 0; plane < Planes<BITS>::count; plane++) planes[plane] += 64 * Planes<BITS>::width[plane];
                }
                p += bytes;
                left -= (size_t)inputs;
            }
            for (int b = 0; b < B; b++) y[b] = m.offsets ? y[b] + sum[b] : fma(h.scale, sum[b], y[b]);
        }
        for (int b = 0; b < B; b++) store_float(out + (size_t)b * stride + kRows * panel, y[b]);
    }
}

}  // namespace panel
