// Many rows of bfloat16 activations on CPUs that multiply pairs of them. A group's codes become bfloat16 pairs once, in registers'
// order and exact (integers up to 256 are), and meet all rows of x while they are in the nearest cache.
// What a lookup coding's table holds is rounded to bfloat16, as a dense layer's weights are.
//
// A Body is the instruction that multiplies: how many panels it takes at once, what it needs set up (Ready), the order in which it
// reads a run of x (`put` of one row of a block), and the product of a chunk.

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
// their x is zero. FULL runs have 64 inputs, and shifts that are known.
template <int BITS, bool FULL>
QF_INLINE void expand_run(const uint8_t* p, int inputs, const Values<BITS>& values, __m512i* pairs) {
    using Planes = panel::Planes<BITS>;
    const uint8_t* planes[3];
    for (int plane = 0; plane < Planes::count; plane++) {
        planes[plane] = p;
        p += 64 * panel::columns_of(inputs, Planes::width[plane]);
    }
    const int quads = FULL ? kRun / 4 : (inputs + 3) / 4;
    const auto word = [](int v) { return (H32)_mm512_set1_epi16((short)v); };
    const auto pair = [&](int quad, int odd) {
        H32 codes = {};
        int at = 0;
#pragma GCC unroll 3
        for (int plane = 0; plane < Planes::count; plane++) {
            const int w = Planes::width[plane], fields = 8 / w;
            const H32 words = (H32)load_codes(planes[plane] + 64 * (quad / fields)) >> word(8 * odd + w * (quad % fields));
            // what lies above a code of one plane may stay: it does not change what is looked up
            codes = Planes::count == 1 ? words : codes | (words & word((1 << w) - 1)) << word(at);
            at += w;
        }
        pairs[2 * quad + odd] = values((__m512i)codes);
    };
    if constexpr (FULL) {
#pragma GCC unroll 16
        for (int quad = 0; quad < kRun / 4; quad++) pair(quad, 0), pair(quad, 1);
    } else {
        for (int quad = 0; quad < quads; quad++) pair(quad, 0), pair(quad, 1);
    }
    for (int rest = 2 * quads; rest < kPairs; rest++) pairs[rest] = _mm512_setzero_si512();
}

// Up to kChunk inputs of one group: which chunk of a row of x it is, and its runs.
struct Chunk {
    size_t index, run, runs, inputs;
};

// A chunk of a panel: y (rows, 16) += scale · Σ pairs · x + shift · Σ x.
struct Weights {
    F32 scale, shift;
    alignas(64) __m512i pairs[kChunk / 2];
};

template <int BITS>
static inline const uint8_t* expand(const uint8_t* p, const Chunk& c, const Values<BITS>& values, Weights& to) {
    for (size_t i = 0; i < c.runs; i++) {
        const int inputs = c.inputs - kRun * i < kRun ? (int)(c.inputs - kRun * i) : kRun;
        ask_ahead(p, panel::run_bytes<BITS>(inputs));
        __m512i* pairs = to.pairs + kPairs * i;
        inputs == kRun ? expand_run<BITS, true>(p, kRun, values, pairs) : expand_run<BITS, false>(p, inputs, values, pairs);
        p += panel::run_bytes<BITS>(inputs);
    }
    return p;
}

// COUNT panels from `panel` on.
template <int BITS, class Body, int COUNT>
static inline void panels(const Panels& m, const Batch& x, size_t panel, const Values<BITS>& values, float* out, size_t stride) {
    const F32 rest = splat(m.table ? 0.0f : m.bias - (float)(1 << (BITS - 1)));
    const size_t groups = (m.inputs + m.group - 1) / m.group;
    const uint8_t* p[COUNT];
    Weights weights[COUNT];
    F32 y[COUNT][kBatch];
    for (int k = 0; k < COUNT; k++) {
        p[k] = m.codes + (panel + k) * m.panel_bytes;
        for (size_t row = 0; row < x.rows; row++) y[k][row] = F32{};
    }
    Chunk c{};
    for (size_t g = 0; g < groups; g++) {
        for (int k = 0; k < COUNT; k++) {
            const panel::Header h = panel::read_header(m, p[k], (panel + k) * groups + g);
            weights[k].scale = h.scale;
            weights[k].shift = (m.offsets ? h.shift : splat(0.0f)) - h.scale * (m.offsets ? rest : h.shift + rest);
            p[k] += m.header_bytes;
        }
        for (size_t left = g + 1 < groups ? m.group : m.inputs - g * m.group; left; left -= c.inputs, c.run += c.runs, c.index++) {
            c.inputs = left < kChunk ? left : kChunk;
            c.runs = (c.inputs + kRun - 1) / kRun;
            for (int k = 0; k < COUNT; k++) p[k] = expand<BITS>(p[k], c, values, weights[k]);
            Body::template multiply<COUNT>(weights, c, x, y);
        }
    }
    for (int k = 0; k < COUNT; k++)
        for (size_t row = 0; row < x.rows; row++) store_float(out + row * stride + kRows * (panel + k), y[k][row]);
}

template <int BITS, class Body>
static void product(const Panels& m, const Batch& x, size_t first, size_t last, float* out, size_t stride) {
    const Values<BITS> values(m.table);
    [[maybe_unused]] const typename Body::Ready ready;
    constexpr int at_once = Body::kPanels;
    for (; first + at_once <= last; first += at_once) panels<BITS, Body, at_once>(m, x, first, values, out, stride);
    for (; first < last; first++) panels<BITS, Body, 1>(m, x, first, values, out, stride);
}

template <class Body>
static void product(const Panels& m, const Batch& x, size_t first, size_t last, float* y, size_t stride) {
    switch (m.bits) {
        case 1: return product<1, Body>(m, x, first, last, y, stride);
        case 2: return product<2, Body>(m, x, first, last, y, stride);
        case 3: return product<3, Body>(m, x, first, last, y, stride);
        case 4: return product<4, Body>(m, x, first, last, y, stride);
        case 5: return product<5, Body>(m, x, first, last, y, stride);
        case 6: return product<6, Body>(m, x, first, last, y, stride);
        case 7: return product<7, Body>(m, x, first, last, y, stride);
        default: return product<8, Body>(m, x, first, last, y, stride);
    }
}

template <class Body>
static void prepare(const uint8_t* x, Value kind, size_t rows, size_t inputs, size_t group, size_t first, size_t last, Batch& batch) {
    const size_t size = kind == Value::float32 ? 4 : 2;
    for (size_t i = first; i < last; i++) {
        const size_t start = batch.start(i), block = batch.start(i + 1) - start;
        for (size_t b = 0; b < block; b++) {
            const uint8_t* row = x + (start + b) * inputs * size;
            uint32_t* to = batch.pairs + start * batch.runs * kPairs;
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
                    Body::put(to, words, b, block);
                }
            }
        }
    }
}

}  // namespace batch
