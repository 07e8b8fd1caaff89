// Products and decoding of additive codes, over the vocabulary of one instruction set. Included inside its namespace.
//
// A table belongs to one input group and one book: entry e is the product of x's group with entry e of the book. A block of
// tables stays in the first-level cache while several panels pass by, each with one contiguous piece of codes.

typedef uint16_t U16 __attribute__((vector_size(64)));
typedef uint16_t U16half __attribute__((vector_size(32)));
typedef int16_t I16half __attribute__((vector_size(32)));
typedef I16half I16halfu __attribute__((aligned(1), may_alias));
typedef float F8 __attribute__((vector_size(32)));
typedef float F8u __attribute__((vector_size(32), aligned(1), may_alias));

constexpr int kMostInputs = 16383;  // x as integers; with books of up to 8191, kSegment products stay below 2^30

// -- tables ---------------------------------------------------------------------------------------------------------

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

// -- int8 tables ----------------------------------------------------------------------------------------------------

// Bytes are summed in 16 bits: `all` takes them in pairs and wraps around, `high` takes the upper ones alone; the lower sums
// are all − 256·high.
struct Sums {
    U16 all, high;

    void add(U32 bytes) { all += (U16)bytes, high += (U16)upper_bytes(bytes); }
    U16 low() const { return all - (high << 8); }
};

// Shuffles, not memory: a sum whose address is taken would live on the stack through its whole loop.
static inline I32 half_of(U16 v, int half) {
    const U16half part = half ? __builtin_shufflevector(v, v, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31)
                              : __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_convertvector(part, I32);
}

// Adds what `count` bytes around 128 stand for to 64 sums: those of the even rows, then those of the odd ones.
static inline void flush(const I32* sums, int count, float scale, float middle, float* sum64) {
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
        const F32 v = to_float(sums[q] - 128 * count) * splat(scale) + splat(middle);
        store_float(sum64 + 16 * q, load_float(sum64 + 16 * q) + v);
    }
}

// A block of tables of 256 entries against R panels that lie `stride` bytes apart: a table is loaded once for all of them.
template <int R>
static inline void block_of_bytes8(const uint8_t* p, size_t stride, const uint8_t* table, int count, Stream& ahead, size_t share,
                                   I32 (*found)[4]) {
    U16 all[R] = {}, high[R] = {};
    for (int t = 0; t < count; t++) {
        const ByteTable entries = make_byte_table(table + 256 * t);
        ahead.due(R * share);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const U32 bytes = lut_bytes<8>(entries, load_codes(p + (size_t)r * stride + 64 * t));
            all[r] += (U16)bytes, high[r] += (U16)upper_bytes(bytes);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        const U16 low = all[r] - (high[r] << 8);
        found[r][0] = half_of(low, 0), found[r][1] = half_of(low, 1), found[r][2] = half_of(high[r], 0), found[r][3] = half_of(high[r], 1);
    }
}

#if !defined(QF_HAS_BLOCK_OF_BYTES4)
// Two tables of 16 entries at a time. Low nibbles are rows 0–31, high ones 32–63, so bytes b and 32 + b of a register belong to
// the same row.
static inline void block_of_bytes4(const uint8_t* p, const uint8_t* table, int count, Stream& ahead, size_t share, I32* found) {
    const U32 nibble = splat(0x0F0F0F0Fu);
    Sums first = {}, second = {};
    const auto two = [&](const uint8_t* entries, U32 codes) {
        const PairTable both = make_pair_table(entries);
        first.add(lut_pair(both, codes & nibble));
        second.add(lut_pair(both, (codes >> 4) & nibble));
    };
    int t = 0;
    for (; t + 2 <= count; t += 2) {
        ahead.due(share);
        two(table + 16 * t, load_codes(p + 32 * t));
    }
    if (t < count) {  // the next table is zero
        alignas(64) uint8_t last[64] = {};
        __builtin_memcpy(last, p + 32 * t, 32);
        two(table + 16 * t, load_codes(last));
    }
    const U16 even[2] = {first.low(), second.low()}, odd[2] = {first.high, second.high};
    for (int q = 0; q < 2; q++) {
        found[q] = half_of(even[q], 0) + half_of(even[q], 1);
        found[2 + q] = half_of(odd[q], 0) + half_of(odd[q], 1);
    }
}
#endif

// R panels of one block.
template <int R>
static inline void panels_of_bytes8(const Additive& m, int batch, size_t block, size_t panel, const uint8_t* tables, const Affinity* how,
                                    Stream& ahead, float* sums) {
    const int count = (int)m.tables(block);
    for (int b = 0; b < batch; b++) {
        I32 found[R][4];
        block_of_bytes8<R>(m.piece(panel, block), m.panel_bytes(), tables + (size_t)b * kTableBytes, count, ahead, b ? 0 : kShare, found);
        float* to = sums + ((size_t)b * m.panels() + panel) * kLanes;
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) flush(found[r], count, how[b].scale, how[b].middle, to + r * kLanes);
    }
}

static void clear(const Additive& m, int batch, const Part& part, float* sums) {
    for (size_t b = 0; b < (size_t)batch; b++)
        std::fill(sums + (b * m.panels() + part.first_panel) * kLanes, sums + (b * m.panels() + part.last_panel) * kLanes, 0.0f);
}

static void sum_bytes(const Additive& m, const float* x, int batch, const Part& part, uint8_t* tables, float* sums) {
    const size_t inputs = m.groups * (size_t)m.width;
    Stream ahead(m, part);
    ahead.due(64 * (m.bits == 8 ? 64 : 16));
    clear(m, batch, part, sums);
    Inputs values;
    const size_t bytes = m.block() * (size_t)m.books * m.entries(), stride = (bytes + 63) / 64 * 64;
    for (size_t block = part.first_block; block < part.last_block; block += m.span()) {
        const size_t span = std::min(m.span(), part.last_block - block);
        // what is not asked for while tables are looked up
        const size_t share = (8 - kShare) * (part.last_panel - part.first_panel) * m.code_bytes() / 64;
        Affinity how[kMostSpan][kBatch];
        for (size_t i = 0; i < span; i++)
            for (int b = 0; b < batch; b++) {
                how[i][b] = {__builtin_nanf(""), __builtin_nanf("")};
                if (!values.read(m, x + (size_t)b * inputs, block + i)) continue;
                uint8_t* to = tables + (size_t)b * kTableBytes + i * stride;
                how[i][b] = (m.bits == 8 ? build256 : build16)(m, values, block + i, ahead, b ? 0 : share, to);
            }
        size_t panel = part.first_panel;
        if (m.bits == 8) {
            for (; panel + 8 <= part.last_panel; panel += 8) panels_of_bytes8<8>(m, batch, block, panel, tables, how[0], ahead, sums);
            for (; panel < part.last_panel; panel++) panels_of_bytes8<1>(m, batch, block, panel, tables, how[0], ahead, sums);
            continue;
        }
        for (; panel < part.last_panel; panel++)
            for (size_t i = 0; i < span; i++)
                for (int b = 0; b < batch; b++) {
                    const int count = (int)m.tables(block + i);
                    I32 found[4];
                    block_of_bytes4(m.piece(panel, block + i), tables + (size_t)b * kTableBytes + i * stride, count, ahead, b ? 0 : kShare,
                                    found);
                    flush(found, count, how[i][b].scale, how[i][b].middle, sums + ((size_t)b * m.panels() + panel) * kLanes);
                }
    }
}

// -- exact tables ---------------------------------------------------------------------------------------------------

static void sum_exact(const Additive& m, const float* x, int batch, const Part& part, float* tables, float* sums) {
    const size_t inputs = m.groups * (size_t)m.width, entries = m.entries();
    const U32 nibble = splat(15u);
    clear(m, batch, part, sums);
    for (size_t block = part.first_block; block < part.last_block; block++)
        for (int b = 0; b < batch; b++) {
            const size_t count = m.tables(block), begin = block * m.block();
            float* to = tables;
            for (size_t g = begin; g < begin + count / (size_t)m.books; g++)
                for (int book = 0; book < m.books; book++, to += entries)
                    build_exact(m, x + (size_t)b * inputs + g * (size_t)m.width, book, to);
            for (size_t panel = part.first_panel; panel < part.last_panel; panel++) {
                const uint8_t* p = m.piece(panel, block);
                const float* table = tables;
                F32 sum[4] = {};
                for (size_t t = 0; t < count; t++, p += m.code_bytes(), table += entries) {
                    if (m.bits == 8) {
#pragma GCC unroll 4
                        for (int q = 0; q < 4; q++) sum[q] += gather(table, widen(p + 16 * q));
                    } else {
                        const F32 all = load_float(table);
#pragma GCC unroll 2
                        for (int q = 0; q < 2; q++) {
                            const U32 codes = widen(p + 16 * q);
                            sum[q] += lut16(all, codes & nibble);
                            sum[q + 2] += lut16(all, codes >> 4);
                        }
                    }
                }
                float* into = sums + ((size_t)b * m.panels() + panel) * kLanes;
#pragma GCC unroll 4
                for (int q = 0; q < 4; q++) store_float(into + 16 * q, load_float(into + 16 * q) + sum[q]);
            }
        }
}

// -- the end --------------------------------------------------------------------------------------------------------

// Slices are added in their order, whichever threads made them. Sums of bytes have the even rows of a panel first.
static void finish(const Additive& m, bool exact, int batch, size_t slices, const float* sums, float* y) {
    const size_t panels = m.panels(), slice = (size_t)batch * panels * kLanes;
    for (size_t b = 0; b < (size_t)batch; b++)
        for (size_t panel = 0; panel < panels; panel++) {
            F32 sum[4];
            alignas(64) float rows[kLanes];
            const float* from = sums + (b * panels + panel) * kLanes;
            for (int q = 0; q < 4; q++) sum[q] = load_float(from + 16 * q);
            for (size_t s = 1; s < slices; s++)
                for (int q = 0; q < 4; q++) sum[q] += load_float(from + s * slice + 16 * q);
            for (int q = 0; q < 2; q++) {
                const F32 even = sum[q], odd = sum[2 + q];
                const F32 first = __builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                const F32 second = __builtin_shufflevector(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
                store_float(rows + 32 * q, exact ? sum[2 * q] : first);
                store_float(rows + 32 * q + 16, exact ? sum[2 * q + 1] : second);
            }
            const size_t top = panel * kLanes;
            if (m.scales)
                for (int q = 0; q < kLanes; q += 16) store_float(rows + q, load_float(rows + q) * load_float(m.scales + top + q));
            __builtin_memcpy(y + b * m.rows + top, rows, 4 * std::min<size_t>(kLanes, m.rows - top));
        }
}

// -- codes too wide for tables --------------------------------------------------------------------------------------

template <int BITS>
static inline size_t code_at(const uint8_t* p, size_t row) {
    if (BITS == 8) return p[row];
    if (BITS == 16) return (size_t)p[row] | (size_t)p[64 + row] << 8;
    return row < 32 ? p[row] & 15u : p[row - 32] >> 4;
}

// Up to eight floats, zeros after them.
static inline F8 load_some(const float* p, size_t count) {
    if (count >= 8) return *(const F8u*)p;
    F8 v = {};
    for (size_t i = 0; i < count; i++) v[i] = p[i];
    return v;
}

static inline F32 join(F8 first, F8 second) {
    return __builtin_shufflevector(first, second, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// Codes that have no tables: entries are read from the book, eight inputs of two rows at a time, sixteen rows beside each other.
static void matvec_wide(const Additive& m, const float* x, size_t first, size_t last, float* y) {
    constexpr size_t kRun = 16, kGroups = 32;  // rows, and groups whose codes are read again for the next rows
    const size_t width = (size_t)m.width, books = (size_t)m.books;
    for (size_t panel = first; panel < last; panel++) {
        F32 sums[kLanes / 2] = {};
        for (size_t begin = 0; begin < m.groups; begin += kGroups)
            for (size_t run = 0; run < kLanes; run += kRun) {
                F32 sum[kRun / 2];
                for (size_t r = 0; r < kRun / 2; r++) sum[r] = sums[run / 2 + r];
                for (size_t g = begin; g < std::min(begin + kGroups, m.groups); g++)
                    for (size_t book = 0; book < books; book++) {
                        const uint8_t* p = m.codes + panel * m.panel_bytes() + (g * books + book) * m.code_bytes() + run;
                        const float* from = m.books_by_entry + book * m.entries() * width;
                        for (size_t i = 0; i < width; i += 8) {
                            const F8 inputs = load_some(x + g * width + i, width - i);
                            const F32 both = join(inputs, inputs);
                            const auto entry = [&](size_t row) { return load_some(from + code_at<16>(p, row) * width + i, width - i); };
#pragma GCC unroll 8
                            for (size_t r = 0; r < kRun / 2; r++) sum[r] = fma(both, join(entry(2 * r), entry(2 * r + 1)), sum[r]);
                        }
                    }
                for (size_t r = 0; r < kRun / 2; r++) sums[run / 2 + r] = sum[r];
            }
        for (size_t r = 0; r < kLanes && panel * kLanes + r < m.rows; r++) {
            float s[16];
            __builtin_memcpy(s, &sums[r / 2], 64);
            const float* of = s + 8 * (r % 2);
            const float sum = ((of[0] + of[4]) + (of[1] + of[5])) + ((of[2] + of[6]) + (of[3] + of[7]));
            y[panel * kLanes + r] = sum * (m.scales ? m.scales[panel * kLanes + r] : 1.0f);
        }
    }
}

// -- decoding -------------------------------------------------------------------------------------------------------

// Groups [g, end) of a row: `codes` are those of its panel.
template <int BITS>
static inline void decode_row(const Additive& m, const uint8_t* codes, size_t row, size_t g, size_t end, float scale, float* to) {
    const size_t width = (size_t)m.width, books = (size_t)m.books;
    for (; g < end; g++, to += width)
        for (size_t i = 0; i < width; i += 8) {
            F8 v = {};
            for (size_t book = 0; book < books; book++) {
                const size_t code = code_at<BITS>(codes + (g * books + book) * m.code_bytes(), row);
                const F8 entry = load_some(m.books_by_entry + (book * m.entries() + code) * width + i, width - i);
                v = book ? v + entry : entry;
            }
            if (m.scales) v = scale * v;
            __builtin_memcpy(to + i, &v, 4 * std::min<size_t>(8, width - i));
        }
}

#if !defined(QF_ROUNDS_NORMALS)
static inline bool rounds_normals() { return false; }
static inline H32 normals_to_bfloats(F32 low, F32 high) { return to_bfloats(low, high); }
#endif

// Where decoded rows go and how.
struct Target {
    Value dtype;
    bool stream;  // past the caches, a line at a time
    bool normal;  // no subnormal numbers, and an instruction that rounds all others to bfloat16

    size_t size() const { return dtype == Value::float32 ? 4 : 2; }
    // As many values as a line holds: 32 of 16 bits, or 16, which are `low`.
    template <Value DTYPE>
    void put(uint8_t* to, F32 low, F32 high) const {
        if constexpr (DTYPE == Value::float32) {
            stream ? stream_float((float*)to, low) : store_float((float*)to, low);
        } else {
            const H32 words = DTYPE == Value::float16 ? to_halves(low, high) : normal ? normals_to_bfloats(low, high) : to_bfloats(low, high);
            stream ? stream_words((uint16_t*)to, words) : store_words((uint16_t*)to, words);
        }
    }
    template <Value DTYPE>
    void put_some(uint8_t* to, const float* values, size_t count) const {
        constexpr size_t line = DTYPE == Value::float32 ? 16 : 32;
        for (size_t i = 0; i < count; i += line) {
            alignas(64) float part[32] = {}, stored[16];
            const size_t here = std::min(line, count - i);
            __builtin_memcpy(part, values + i, 4 * here);
            Target{dtype, false, false}.put<DTYPE>((uint8_t*)stored, load_float(part), load_float(part + 16));
            __builtin_memcpy(to + size() * i, stored, size() * here);
        }
    }
};

// Groups [g, end) of a row, of one or two times eight inputs: whole lines, of two or four eights.
template <int BITS, Value DTYPE, size_t EIGHTS>
static inline size_t decode_lines(const Additive& m, const uint8_t* codes, size_t row, size_t g, size_t end, float scale, const Target& target,
                                  uint8_t* to) {
    constexpr size_t groups = (DTYPE == Value::float32 ? 2 : 4) / EIGHTS;
    const size_t books = (size_t)m.books, next = books * 8 * BITS, width = 8 * EIGHTS;
    const auto sixteen = [&](const uint8_t* p) {
        const float* from = m.books_by_entry;
        F32 v;
        const auto entries = [&](size_t book) {
            const uint8_t* at = p + 8 * BITS * book;
            const float* book_ = from + (width << BITS) * book;
            const float* first = book_ + width * code_at<BITS>(at, row);
            if (EIGHTS == 2) return load_float(first);
            return join(*(const F8u*)first, *(const F8u*)(book_ + width * code_at<BITS>(at + next, row)));
        };
        v = entries(0);
        if (books > 1) v += entries(1);
        for (size_t book = 2; book < books; book++) v += entries(book);
        return m.scales ? splat(scale) * v : v;
    };
    for (; g + groups <= end; g += groups, to += 64) {
        const uint8_t* p = codes + g * next;
        const F32 low = sixteen(p);
        target.put<DTYPE>(to, low, DTYPE == Value::float32 ? low : sixteen(p + 2 / EIGHTS * next));
    }
    return g;
}

template <int BITS, Value DTYPE>
static void decode_rows(const Additive& m, size_t first, size_t last, const Target& target, uint8_t* out) {
    const size_t width = (size_t)m.width, size = target.size(), inputs = m.groups * width;
    const size_t step = std::max<size_t>(4, 512 / width);  // groups decoded at a time: their codes stay close for all rows
    alignas(64) float line[4 * 4096];
    for (size_t top = first; top < last;) {
        const size_t panel = top / kLanes, bottom = std::min((panel + 1) * kLanes, last);
        const uint8_t* codes = m.codes + panel * m.panel_bytes();
        const size_t next = (size_t)m.books * m.code_bytes(), share = std::min(step, m.groups) * next / kLanes;
        for (size_t begin = 0; begin < m.groups; begin += step) {
            const size_t end = std::min(begin + step, m.groups);
            for (size_t row = top; row < bottom; row++) {
                uint8_t* to = out + size * ((row - first) * inputs + begin * width);
                const float scale = m.scales ? m.scales[row] : 1.0f;
                // the codes that follow, a share with each row
                for (size_t i = 0; i < share; i += 64) __builtin_prefetch(codes + end * next + (row % kLanes) * share + i);
                size_t g = begin;
                if (width == 8) g = decode_lines<BITS, DTYPE, 1>(m, codes, row % kLanes, g, end, scale, target, to);
                if (width == 16) g = decode_lines<BITS, DTYPE, 2>(m, codes, row % kLanes, g, end, scale, target, to);
                if (g == end) continue;
                decode_row<BITS>(m, codes, row % kLanes, g, end, scale, line);
                target.put_some<DTYPE>(to + size * (g - begin) * width, line, (end - g) * width);
            }
        }
        top = bottom;
    }
    if (target.stream) fence();
}

template <Value DTYPE>
static void decode_as(const Additive& m, size_t first, size_t last, const Target& target, uint8_t* out) {
    if (m.bits == 4) return decode_rows<4, DTYPE>(m, first, last, target, out);
    if (m.bits == 8) return decode_rows<8, DTYPE>(m, first, last, target, out);
    decode_rows<16, DTYPE>(m, first, last, target, out);
}

static void decode(const Additive& m, size_t first, size_t last, Value dtype, bool stream, uint8_t* out) {
    Target target{dtype, stream, m.normal && rounds_normals()};
    target.stream = stream && (uintptr_t)out % 64 == 0 && m.groups * (size_t)m.width * target.size() % 64 == 0;
    if (dtype == Value::float32) return decode_as<Value::float32>(m, first, last, target, out);
    if (dtype == Value::bfloat16) return decode_as<Value::bfloat16>(m, first, last, target, out);
    decode_as<Value::float16>(m, first, last, target, out);
}
