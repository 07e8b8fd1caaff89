// Tables of partial products of additive codes: in float32, and as bytes made from exact 16-bit products. Included by
// additive-inl.h.

// One table in float32.
static inline void build_exact(const Additive& m, const float* x, int book, float* out) {
    const size_t entries = m.entries();
    const float* from = m.books_by_input + (size_t)book * (size_t)m.width * entries;
    for (size_t e = 0; e < entries; e += 16) {
        F32 sum = splat(x[0]) * load_float(from + e);
        for (int i = 1; i < m.width; i++) sum = fma(splat(x[i]), load_float(from + (size_t)i * entries + e), sum);
        store_float(out + e, sum);
    }
}


static inline float sum_of(F32 v) {
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += v[i];
    return sum;
}

// The largest magnitude of x, or NaN if any of them is not finite.
static inline float magnitude(const float* x, size_t count) {
    F32 most = {}, bad = {};
    float rest = 0, bad_rest = 0;
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const F32 v = load_float(x + i), size = (F32)((U32)v & splat(0x7FFFFFFFu));
        most = size > most ? size : most;
        bad += v * splat(0.0f);
    }
    for (; i < count; i++) {
        rest = __builtin_fabsf(x[i]) > rest ? __builtin_fabsf(x[i]) : rest;
        bad_rest += x[i] * 0.0f;
    }
    for (int lane = 0; lane < 16; lane++) rest = most[lane] > rest ? most[lane] : rest;
    return rest + bad_rest + sum_of(bad);
}

// x · inverse rounded to integers of 16 bits: adding 1.5·2²³ leaves the nearest integer in the low bits.
static inline void quantize_inputs(const float* x, size_t count, float inverse, int16_t* out) {
    const float magic = 12582912.0f;
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const I32 v = (I32)(load_float(x + i) * splat(inverse) + splat(magic));
        *(I16halfu*)(out + i) = __builtin_convertvector(v, I16half);
    }
    for (; i < count; i++) {
        const float v = x[i] * inverse + magic;
        int32_t bits;
        __builtin_memcpy(&bits, &v, 4);
        out[i] = (int16_t)bits;
    }
}

// The order in which a part is read: of each span of blocks its piece of every panel. Codes are asked for ahead of their use, as far as
// the second-level cache (closer would push tables out), faster while tables are built than while they are looked up, so that
// the memory never rests.
class Stream {
public:
    Stream(const Additive& m, const Part& part) : m_(m), part_(part), block_(part.first_block), panel_(part.first_panel) { open(); }

    // `count` sixty-fourths of eight lines more are due.
    inline void due(size_t count) {
        due_ += count;
        while (due_ >= 64) due_ -= 64, ask();
    }

private:
    void open() {
        const size_t end = std::min(block_ + m_.span(), part_.last_block) - 1;
        line_ = m_.piece(panel_, block_);
        left_ = (size_t)(m_.piece(panel_, end) - line_) + m_.tables(end) * m_.code_bytes();
    }

    inline void ask() {
        if (block_ >= part_.last_block) return;
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) __builtin_prefetch(line_ + 64 * i, 0, 2);
        line_ += 512;
        if (left_ > 512) {
            left_ -= 512;
            return;
        }
        if (++panel_ == part_.last_panel) {
            panel_ = part_.first_panel;
            block_ += m_.span();
            if (block_ >= part_.last_block) return;
        }
        open();
    }

    const Additive& m_;
    const Part& part_;
    size_t block_, panel_, left_, due_ = 0;
    const uint8_t* line_;
};

constexpr size_t kShare = 7;  // of eight lines, those that are asked for while tables are looked up

typedef int16_t I16 __attribute__((vector_size(64)));
static inline I16 smaller(I16 a, I16 b) { return a < b ? a : b; }
static inline I16 larger(I16 a, I16 b) { return a > b ? a : b; }

// Two registers of integers of 31 bits as their upper halves: a lane has one of each.
static inline U32 pack_halves(I32 first, I32 second) {
    return ((U32)(first >> 15) & splat(0xFFFFu)) | ((U32)(second << 1) & splat(0xFFFF0000u));
}

// What tables are made of: x as pairs of integers of 16 bits, and what 1 stands for in a sum of products.
struct Inputs {
    alignas(64) uint32_t pairs[4 * kSegments];  // of a block: (groups, segments · 4)
    float unit;
    int shift;  // sums of eight inputs lose so many bits before they are added

    // False if x is not finite.
    bool read(const Additive& m, const float* x, size_t block) {
        const size_t width = (size_t)m.width, groups = m.tables(block) / (size_t)m.books, line = 4 * m.segments();
        x += block * m.block() * width;
        const float most = magnitude(x, groups * width);
        if (!(most <= 3.0e38f)) return false;
        const float step = most / kMostInputs, inverse = step >= 1.0e-37f ? 1.0f / step : 0.0f;
        for (shift = 0; (size_t{1} << shift) < m.segments();) shift++;
        unit = step * m.unit * (float)(size_t{1} << (15 + shift));
        if (width == kSegment) {
            quantize_inputs(x, groups * width, inverse, (int16_t*)pairs);
        } else {
            __builtin_memset(pairs, 0, 4 * groups * line);
            for (size_t g = 0; g < groups; g++) quantize_inputs(x + g * width, width, inverse, (int16_t*)(pairs + g * line));
        }
        return true;
    }
};

// The sums of products of one segment, or of all of them.
template <int GROUPS, bool ONE>
static inline void products(const uint32_t* book, size_t entries, size_t segments, int shift, const uint32_t* x, I32* sum) {
    if (ONE) segments = 1;
#pragma GCC unroll 2
    for (int j = 0; j < GROUPS; j++) sum[j] = I32{} + (1 << 14);  // half of what is lost when they are packed
    for (size_t s = 0; s < segments; s++) {
        I32 part[GROUPS] = {};
#pragma GCC unroll 4
        for (size_t i = 4 * s; i < 4 * s + 4; i++) {
            const U32 pairs = load_codes(book + i * entries);
#pragma GCC unroll 2
            for (int j = 0; j < GROUPS; j++) {
                I32& to = ONE ? sum[j] : part[j];
                to = dot2(to, pairs, splat(x[4 * segments * (size_t)j + i]));
            }
        }
        if (!ONE)
            for (int j = 0; j < GROUPS; j++) sum[j] += part[j] >> shift;
    }
}

// The halves of the products of one or two groups with a book of 256 entries, and what bounds 32 of them each.
template <int GROUPS, bool ONE>
static inline void products256(const uint32_t* book, size_t segments, int shift, const uint32_t* x, U32* const* out, U32* low, U32* high) {
    I16 least[GROUPS], most[GROUPS];
    for (int j = 0; j < GROUPS; j++) least[j] = I16{} + (int16_t)0x7FFF, most[j] = ~least[j];
    for (size_t e = 0; e < 256; e += 32) {
        I32 first[GROUPS], second[GROUPS];
        products<GROUPS, ONE>(book + e, 256, segments, shift, x, first);
        products<GROUPS, ONE>(book + e + 16, 256, segments, shift, x, second);
#pragma GCC unroll 2
        for (int j = 0; j < GROUPS; j++) {
            const U32 halves = pack_halves(first[j], second[j]);
            out[j][e / 32] = halves;
            least[j] = smaller(least[j], (I16)halves), most[j] = larger(most[j], (I16)halves);
        }
    }
    for (int j = 0; j < GROUPS; j++) low[j] = (U32)least[j], high[j] = (U32)most[j];
}

// Halfway between, rounded down, without leaving 16 bits.
static inline I16 between(I16 a, I16 b) { return (a & b) + ((a ^ b) >> 1); }

// What the bytes of a block stand for: Σ (byte − 128)·scale + middle.
struct Affinity {
    float scale, middle;
};

// How the halves of a block become bytes: (half − middle) · factor / 2¹⁵, every table with a middle of its own.
struct Range {
    int most = 0;    // half the widest range
    int middle = 0;  // the sum of the middles

    // Takes in what bounds 32 tables, and gives their middles.
    void widen(I16 low, I16 high, U32* middles) {
        const I16 middle_ = between(low, high), half = high - middle_;
        *middles = (U32)middle_;
        int16_t each[2][32];
        __builtin_memcpy(each[0], &half, 64), __builtin_memcpy(each[1], &middle_, 64);
        for (int i = 0; i < 32; i++) most = each[0][i] > most ? each[0][i] : most, middle += each[1][i];
    }

    int factor() const { return most > 127 ? (127 << 15) / most : 32767; }

    Affinity affinity(float unit) const {
        const float scale = unit * 32768.0f / (float)factor(), sum = unit * (float)middle;
        const bool finite = scale * 127.0f <= 3.0e38f && __builtin_fabsf(sum) <= 3.0e38f;
        return finite ? Affinity{scale, sum} : Affinity{__builtin_nanf(""), __builtin_nanf("")};
    }
};

// The tables of 256 entries of a block.
static Affinity build256(const Additive& m, const Inputs& x, size_t block, Stream& ahead, size_t share, uint8_t* bytes) {
    const size_t books = (size_t)m.books, segments = m.segments(), count = m.tables(block), groups = count / books;
    alignas(64) U32 products[64][8];
    alignas(64) U32 low[64], high[64];
    for (size_t g = 0; g < groups; g += 2)
        for (size_t book = 0; book < books; book++) {
            const size_t t = g * books + book, u = g + 1 < groups ? t + books : t;
            const uint32_t *from = m.pairs_by_input + book * segments * 4 * 256, *pairs = x.pairs + g * segments * 4;
            U32* const out[2] = {products[t], products[u]};
            U32 least[2], most[2];
            ahead.due(2 * share);
            if (u == t) {
                products256<1, false>(from, segments, x.shift, pairs, out, least, most);
            } else if (segments == 1) {
                products256<2, true>(from, segments, x.shift, pairs, out, least, most);
            } else {
                products256<2, false>(from, segments, x.shift, pairs, out, least, most);
            }
            low[t] = least[0], high[t] = most[0];
            if (u != t) low[u] = least[1], high[u] = most[1];
        }
    for (size_t t = count; t % 16; t++) low[t] = high[t] = U32{};
    Range range;
    alignas(64) uint32_t middles[64];
    for (size_t t = 0; t < count; t += 16) {
        transpose(low + t), transpose(high + t);
        I16 least = (I16)low[t], most = (I16)high[t];
        for (size_t i = 1; i < 16; i++) least = smaller(least, (I16)low[t + i]), most = larger(most, (I16)high[t + i]);
        // both halves of a lane are of one table
        least = smaller(least, (I16)((U32)least << 16 | (U32)least >> 16)), most = larger(most, (I16)((U32)most << 16 | (U32)most >> 16));
        U32 found;
        range.widen(least, most, &found);
        __builtin_memcpy(middles + t, &found, 64);
    }
    range.middle /= 2;
    const U32 factor = splat((uint32_t)range.factor() * 0x10001u);
    for (size_t t = 0; t < count; t++) {
        const U32 middle = splat(middles[t]);
        for (size_t i = 0; i < 8; i += 2)
            store_low_bytes(bytes + 256 * t + 32 * i, quantize(products[t][i], middle, factor), quantize(products[t][i + 1], middle, factor));
    }
    return range.affinity(x.unit);
}

// The tables of 16 entries of a block; those beyond its end are zero, and whole fours of them are written.
static Affinity build16(const Additive& m, const Inputs& x, size_t block, Stream& ahead, size_t share, uint8_t* bytes) {
    const size_t books = (size_t)m.books, segments = m.segments(), count = m.tables(block);
    alignas(64) I32 sums[128];
    for (size_t t = 0, book = 0, g = 0; t < count; t++) {
        const uint32_t *from = m.pairs_by_input + book * segments * 4 * 16, *pairs = x.pairs + g * segments * 4;
        if (segments == 1) {
            products<1, true>(from, 16, segments, x.shift, pairs, &sums[t]);
        } else {
            products<1, false>(from, 16, segments, x.shift, pairs, &sums[t]);
        }
        ahead.due(share);
        if (++book == books) book = 0, g++;
    }
    for (size_t t = count; t % 32; t++) sums[t] = I32{};
    Range range;
    alignas(64) U32 halves[64], columns[16];  // two tables a register
    alignas(64) uint32_t middles[64];
    for (size_t t = 0; t < count; t += 32) {
        for (size_t i = 0; i < 16; i++) columns[i] = halves[t / 2 + i] = pack_halves(sums[t + 2 * i], sums[t + 2 * i + 1]);
        transpose(columns);
        I16 least = (I16)columns[0], most = (I16)columns[0];
        for (int i = 1; i < 16; i++) least = smaller(least, (I16)columns[i]), most = larger(most, (I16)columns[i]);
        U32 found;
        range.widen(least, most, &found);
        __builtin_memcpy(middles + t / 2, &found, 64);
    }
    const U32 factor = splat((uint32_t)range.factor() * 0x10001u);
    for (size_t t = 0; t < count; t += 4)
        store_low_bytes(bytes + 16 * t, quantize(halves[t / 2], splat(middles[t / 2]), factor),
                        quantize(halves[t / 2 + 1], splat(middles[t / 2 + 1]), factor));
    std::fill(bytes + 16 * count, bytes + (16 * count + 63) / 64 * 64, uint8_t{0});
    return range.affinity(x.unit);
}
