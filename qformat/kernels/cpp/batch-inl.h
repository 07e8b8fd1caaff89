// Many rows of bfloat16 activations on CPUs with vdpbf16ps. A group's codes become bfloat16 pairs once, in registers' order and
// exact (integers up to 256 are), and meet all rows of x while they are in the nearest cache: 24 sums stay in registers.
// What a lookup coding's table holds is rounded to bfloat16, as a dense layer's weights are.

namespace batch {

constexpr int kPairs = kRun / 2;
// bfloat16 by code, looked up in words by up to eight bits.
template <int BITS>
struct Values {
    static constexpr int count = BITS <= 5 ? 1 : 1 << (BITS - 5);
    __m512i part[count];

    explicit Values(const float* table) {
        uint16_t entries[32 * count];
        for (int i = 0; i < 32 * count; i++) {
            const int code = i & ((1 << BITS) - 1);
            entries[i] = to_bfloat(table ? table[code] : (float)(code - (1 << (BITS - 1))));
        }
        for (int i = 0; i < count; i++) part[i] = _mm512_loadu_si512(entries + 32 * i);
    }
    __m512i operator()(__m512i codes) const {
        if constexpr (count == 1) {
            return _mm512_permutexvar_epi16(codes, part[0]);
        } else {
            __m512i found[count / 2];
            for (int i = 0; i < count / 2; i++) found[i] = _mm512_permutex2var_epi16(part[2 * i], codes, part[2 * i + 1]);
            for (int half = count / 4, bit = BITS - 1; half; half /= 2, bit--) {
                const __mmask32 upper = _mm512_test_epi16_mask(codes, _mm512_set1_epi16((short)(1 << bit)));
                for (int i = 0; i < half; i++) found[i] = _mm512_mask_blend_epi16(upper, found[i], found[i + half]);
            }
            return found[0];
        }
    }
};

// The pairs of a run, 16 rows a register: inputs 0 and 2, then 1 and 3 of every four. Inputs beyond the run are anything:
// their x is zero.
template <int BITS>
static inline void expand(const uint8_t* p, int inputs, const Values<BITS>& values, __m512i* pairs) {
    const uint8_t* planes[3];
    for (int plane = 0; plane < panel::Planes<BITS>::count; plane++) {
        planes[plane] = p;
        p += 64 * panel::columns_of(inputs, panel::Planes<BITS>::width[plane]);
    }
    for (int quad = 0; 4 * quad < inputs; quad++)
        for (int odd = 0; odd < 2; odd++) {
            __m512i codes = _mm512_setzero_si512();
            int at = 0;
#pragma GCC unroll 3
            for (int plane = 0; plane < panel::Planes<BITS>::count; plane++) {
                const int w = panel::Planes<BITS>::width[plane], fields = 8 / w;
                const __m512i words = _mm512_srl_epi16((__m512i)load_codes(planes[plane] + 64 * (quad / fields)),
                                                       _mm_cvtsi32_si128(8 * odd + w * (quad % fields)));
                codes = _mm512_or_si512(codes, _mm512_slli_epi16(_mm512_and_si512(words, _mm512_set1_epi16((short)((1 << w) - 1))), (unsigned)at));
                at += w;
            }
            pairs[2 * quad + odd] = values(codes);
        }
    for (int pair = (inputs + 3) / 4 * 2; pair < kPairs; pair++) pairs[pair] = _mm512_setzero_si512();
}

#define QF_BF16 __attribute__((target("avx512bf16")))

// A chunk of one group in one panel: y (rows, 16) += scale · Σ pairs · x + shift · Σ x.
struct Chunk {
    const __m512i* pairs;
    size_t index, run, runs;
    F32 scale, shift;
};

template <int B>
QF_BF16 static inline void multiply(const Chunk& c, const Batch& x, size_t row, F32* y) {
    __m512 sum[B] = {};
    const uint32_t* from = x.pairs + (row * x.runs + c.run * B) * kPairs;
    for (const __m512i *w = c.pairs, *end = w + kPairs * c.runs; w < end; w++, from += B) {
#pragma GCC unroll 24
        for (int b = 0; b < B; b++) sum[b] = _mm512_dpbf16_ps(sum[b], (__m512bh)*w, (__m512bh)_mm512_set1_epi32((int)from[b]));
    }
    const float* totals = x.totals + c.index * x.rows + row;
#pragma GCC unroll 24
    for (int b = 0; b < B; b++) y[b] = fma(c.scale, (F32)sum[b], fma(c.shift, splat(totals[b]), y[b]));
}

template <int BITS>
QF_BF16 static void product(const Panels& m, const Batch& x, size_t first, size_t last, float* out, size_t stride) {
    const Values<BITS> values(m.table);
    const F32 rest = splat(m.table ? 0.0f : m.bias - (float)(1 << (BITS - 1)));
    const size_t groups = (m.inputs + m.group - 1) / m.group;
    alignas(64) __m512i pairs[kChunk / 2];
    F32 y[kBatch];
    for (size_t panel = first; panel < last; panel++) {
        const uint8_t* p = m.codes + panel * m.panel_bytes;
        for (size_t row = 0; row < x.rows; row++) y[row] = F32{};
        Chunk c{pairs, 0, 0, 0, {}, {}};
        for (size_t g = 0; g < groups; g++) {
            const panel::Header h = panel::read_header(m, p, panel * groups + g);
            c.scale = h.scale, c.shift = (m.offsets ? h.shift : splat(0.0f)) - h.scale * (m.offsets ? rest : h.shift + rest);
            p += m.header_bytes;
            for (size_t left = g + 1 < groups ? m.group : m.inputs - g * m.group; left; c.run += c.runs, c.index++) {
                const size_t chunk = left < kChunk ? left : kChunk;
                c.runs = (chunk + kRun - 1) / kRun;
                for (size_t i = 0; i < c.runs; i++) {
                    const int inputs = chunk - kRun * i < kRun ? (int)(chunk - kRun * i) : kRun;
                    expand<BITS>(p, inputs, values, pairs + kPairs * i);
                    p += panel::run_bytes<BITS>(inputs);
                }
                for (size_t i = 0; i < x.blocks(); i++) {
                    const size_t row = x.start(i);
                    x.start(i + 1) - row == 24 ? multiply<24>(c, x, row, y + row) : multiply<16>(c, x, row, y + row);
                }
                left -= chunk;
            }
        }
        for (size_t row = 0; row < x.rows; row++) store_float(out + row * stride + kRows * panel, y[row]);
    }
}

static void prepare(const uint8_t* x, Value kind, size_t rows, size_t inputs, size_t group, size_t first, size_t last, Batch& batch) {
    const size_t size = kind == Value::float32 ? 4 : 2;
    for (size_t i = first; i < last; i++) {
        const size_t start = batch.start(i), block = batch.start(i + 1) - start;
        for (size_t b = 0; b < block; b++) {
            const uint8_t* row = x + (start + b) * inputs * size;
            uint32_t* to = batch.pairs + start * batch.runs * kPairs + b;
            float* total = batch.totals + start + b;
            for (size_t from = 0, end; from < inputs; from = end, total += batch.rows) {  // a chunk
                const size_t left = (from / group + 1) * group - from;
                end = from + (left < kChunk ? left : kChunk) < inputs ? from + (left < kChunk ? left : kChunk) : inputs;
                *total = 0;
                for (size_t at = from; at < end; at += kRun, to += kPairs * block) {
                    F32 values[4] = {};
                    uint16_t words[kRun];
                    if (start + b < rows) activations::widen_run(kind, row + at * size, (int)(end - at < kRun ? end - at : kRun), values);
                    *total += activations::pair_run(values, words);
                    for (size_t pair = 0; pair < kPairs; pair++) __builtin_memcpy(to + pair * block, words + 2 * pair, 4);
                }
            }
        }
    }
}

static void product(const Panels& m, const Batch& x, size_t first, size_t last, float* y, size_t stride) {
    switch (m.bits) {
        case 1: return product<1>(m, x, first, last, y, stride);
        case 2: return product<2>(m, x, first, last, y, stride);
        case 3: return product<3>(m, x, first, last, y, stride);
        case 4: return product<4>(m, x, first, last, y, stride);
        case 5: return product<5>(m, x, first, last, y, stride);
        case 6: return product<6>(m, x, first, last, y, stride);
        case 7: return product<7>(m, x, first, last, y, stride);
        default: return product<8>(m, x, first, last, y, stride);
    }
}

}  // namespace batch
