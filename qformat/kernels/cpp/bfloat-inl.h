// bfloat16 activations on CPUs with vdpbf16ps: codes become bfloat16 by a table lookup in words, which are exact
// (integers up to 256 are), products are accumulated in float32. Only affine codings: a plane of a code is linear.
//
// The words of a dword hold bytes 0, 1 and 2, 3; shifting them by the field and then by 8 gives the pairs (0, 2) and
// (1, 3) of four inputs. A permute of words uses five bits of the index, so a table of 16 stands twice in 32 entries.

namespace bfloat {

#define QF_BF16 __attribute__((target("avx512bf16")))

// 32 words: entry i is (low bits of i, `width` of them) << at, less `centre`.
static inline __m512i word_table(int width, int at, float centre) {
    uint16_t entries[32];
    for (int i = 0; i < 32; i++) entries[i] = to_bfloat((float)((i & ((1 << width) - 1)) << at) - centre);
    return _mm512_loadu_si512(entries);
}

QF_BF16 static inline F32 dot(F32 acc, __m512i table, U32 dwords, int shift, U32 pair) {
    const __m512i codes = _mm512_permutexvar_epi16(_mm512_srli_epi16((__m512i)dwords, (unsigned)shift), table);
    return (F32)_mm512_dpbf16_ps((__m512)acc, (__m512bh)codes, (__m512bh)pair);
}

// Sums of one row of x that do not wait for each other: one row has no other rows' products to hide the latency of its own.
template <int B>
constexpr int kChains = B == 1 ? 4 : 2;

// acc += codes · x over the columns of one plane: COLUMNS of them, or, if that is 0, `columns`.
template <int W, int B, int COLUMNS>
QF_BF16 QF_INLINE void plane(const uint8_t* p, const uint16_t* x, int columns, const __m512i* tables, F32* acc) {
    auto column = [&](int c) QF_BF16 __attribute__((always_inline)) {
        const U32 dwords = load_codes(p + 64 * c);
#pragma GCC unroll 8
        for (int j = 0; j < 8 / W; j++) {
            const uint16_t* quad = x + 4 * (c * (8 / W) + j);
#pragma GCC unroll 8
            for (int b = 0; b < B; b++) {
                const U32 even = splat_dword(quad + kRun * b), odd = splat_dword(quad + kRun * b + 2);
                F32* pair = acc + kChains<B> * b + 2 * (c * (8 / W) + j) % kChains<B>;
                pair[0] = dot(pair[0], tables[0], dwords, j * W, even);
                pair[1] = dot(pair[1], tables[0], dwords, 8 + j * W, odd);
                if (W == 8) {  // a byte is two lookups of four bits
                    pair[0] = dot(pair[0], tables[1], dwords, 4, even);
                    pair[1] = dot(pair[1], tables[1], dwords, 12, odd);
                }
            }
        }
    };
    if constexpr (COLUMNS > 0) {
#pragma GCC unroll 16
        for (int c = 0; c < COLUMNS; c++) column(c);
    } else {
        for (int c = 0; c < columns; c++) column(c);
    }
}

// One run of up to 64 inputs; FULL ones have 64, and for one row of x their loops are unrolled. Returns its end.
template <int BITS, int B, bool FULL>
QF_BF16 QF_INLINE const uint8_t* run_of(const uint8_t* p, const uint16_t* x, int inputs, const __m512i (*tables)[2], F32* acc) {
    using P = panel::Planes<BITS>;
    constexpr int unrolled = FULL && B == 1 ? 2 : 0;
    int columns = FULL ? 2 * P::width[0] : panel::columns_of(inputs, P::width[0]);
    plane<P::width[0], B, unrolled * P::width[0]>(p, x, columns, tables[0], acc);
    p += 64 * columns;
    if constexpr (P::count > 1) {
        columns = FULL ? 2 * P::width[1] : panel::columns_of(inputs, P::width[1]);
        plane<P::width[1], B, unrolled * P::width[1]>(p, x, columns, tables[1], acc);
        p += 64 * columns;
    }
    if constexpr (P::count > 2) {
        columns = FULL ? 2 * P::width[2] : panel::columns_of(inputs, P::width[2]);
        plane<P::width[2], B, unrolled * P::width[2]>(p, x, columns, tables[2], acc);
        p += 64 * columns;
    }
    return p;
}

template <int BITS, int B>
QF_BF16 static void matvec(const Panels& m, const Activations& x, size_t first, size_t last, float* out, size_t stride) {
    using Planes = panel::Planes<BITS>;
    // Codes are centred, so that a zero in the middle of the range is not two large sums of opposite sign.
    const float centre = (float)(1 << (BITS - 1));
    __m512i tables[3][2];
    int at = 0;
    for (int p = 0; p < Planes::count; p++) {
        const int width = Planes::width[p];
        tables[p][0] = word_table(width < 4 ? width : 4, at, p ? 0.0f : centre);
        tables[p][1] = word_table(4, 4, 0.0f);
        at += width;
    }
    const F32 rest = splat(m.bias - centre);
    const size_t groups = (m.inputs + m.group - 1) / m.group;
    for (size_t panel = first; panel < last; panel++) {
        const uint8_t* p = m.codes + panel * m.panel_bytes;
        size_t run = 0;
        F32 y[B] = {};
        for (size_t g = 0; g < groups; g++) {
            const panel::Header h = panel::read_header(m, p, panel * groups + g);
            ask_ahead(p, (size_t)m.header_bytes);
            p += m.header_bytes;
            size_t left = g + 1 < groups ? m.group : m.inputs - g * m.group;
            F32 sum[kChains<B> * B] = {};
            for (; left; run++) {
                const int inputs = left < kRun ? (int)left : kRun;
                const uint16_t* pairs = x.pairs + run * (size_t)(kRun * B);
                ask_ahead(p, panel::run_bytes<BITS>(inputs));
                p = inputs == kRun ? run_of<BITS, B, true>(p, pairs, kRun, tables, sum) : run_of<BITS, B, false>(p, pairs, inputs, tables, sum);
                left -= (size_t)inputs;
            }
            for (int b = 0; b < B; b++) {
                const F32* chains = sum + kChains<B> * b;
                F32 dots = chains[0] + chains[1];
                if (kChains<B> == 4) dots += chains[2] + chains[3];
                const F32 xs = splat(x.totals[g * B + b]);
                if (m.offsets) {
                    y[b] = fma(h.scale, dots - rest * xs, fma(h.shift, xs, y[b]));
                } else {
                    y[b] = fma(h.scale, dots - (h.shift + rest) * xs, y[b]);
                }
            }
        }
        for (int b = 0; b < B; b++) store_float(out + (size_t)b * stride + kRows * panel, y[b]);
    }
}

}  // namespace bfloat
