// Products and decoding of additive codes, over the vocabulary of one instruction set. Included inside its namespace.
//
// A table belongs to one input group and one book: entry e is the product of x's group with entry e of the book. A block of
// tables stays in the first-level cache while several panels pass by, each with one contiguous piece of codes.

typedef uint16_t U16 __attribute__((vector_size(64)));
typedef uint16_t U16half __attribute__((vector_size(32)));
typedef float F8 __attribute__((vector_size(32)));
typedef float F8u __attribute__((vector_size(32), aligned(1), may_alias));

constexpr size_t kChunk = 8;  // panels that pass by a block of tables, at most

static inline size_t block_end(const Additive& m, size_t block) { return std::min((block + 1) * m.block(), m.groups); }

// One table in float32.
static inline void build_table(const Additive& m, const float* x, int book, float* out) {
    const size_t entries = size_t{1} << m.bits;
    const float* from = m.books_by_input + (size_t)book * (size_t)m.width * entries;
    size_t e = 0;
    for (; e + 64 <= entries; e += 64) {  // four sums at a time, so that they do not wait for each other
        F32 sum[4];
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) sum[q] = splat(x[0]) * load_float(from + e + 16 * q);
        for (int i = 1; i < m.width; i++) {
            const F32 factor = splat(x[i]);
            const float* row = from + (size_t)i * entries + e;
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++) sum[q] = fma(factor, load_float(row + 16 * q), sum[q]);
        }
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) store_float(out + e + 16 * q, sum[q]);
    }
    for (; e < entries; e += 16) {
        F32 sum = splat(x[0]) * load_float(from + e);
        for (int i = 1; i < m.width; i++) sum = fma(splat(x[i]), load_float(from + (size_t)i * entries + e), sum);
        store_float(out + e, sum);
    }
}

static inline F32 smaller(F32 a, F32 b) { return a < b ? a : b; }
static inline F32 larger(F32 a, F32 b) { return a > b ? a : b; }

// The middle and half the range of a table.
static inline void range_of(const float* table, int entries, float* middle, float* half) {
    F32 low = load_float(table), high = low;
    for (int e = 16; e < entries; e += 16) {
        const F32 v = load_float(table + e);
        low = smaller(low, v), high = larger(high, v);
    }
#define QF_FOLD(...)                                                    \
    low = smaller(low, __builtin_shufflevector(low, low, __VA_ARGS__)); \
    high = larger(high, __builtin_shufflevector(high, high, __VA_ARGS__))
    QF_FOLD(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    QF_FOLD(4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    QF_FOLD(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    QF_FOLD(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#undef QF_FOLD
    const float least = low[0], most = high[0];
    *middle = 0.5f * least + 0.5f * most;
    *half = 0.5f * most - 0.5f * least;
}

// Rounds to 1 … 255, 128 for the middle: adding 1.5·2²³ leaves the nearest integer in the low bits.
static inline void quantize_table(const float* table, int entries, float middle, float inverse, uint8_t* out) {
    const F32 magic = splat(12582912.0f);
    for (int e = 0; e < entries; e += 16) {
        const F32 v = (load_float(table + e) - splat(middle)) * splat(inverse) + splat(128.0f) + magic;
        store_low_bytes(out + e, (U32)v);
    }
}

static void build(const Additive& m, const float* x, Tables& tables, size_t first, size_t last) {
    const int entries = 1 << m.bits;
    alignas(64) float local[64 * 256];
    float middles[128];
    for (size_t block = first; block < last; block++) {
        const size_t begin = block * m.block(), end = block_end(m, block), count = (end - begin) * (size_t)m.books;
        float* to = tables.exact ? tables.exact + begin * (size_t)m.books * (size_t)entries : local;
        for (size_t g = begin; g < end; g++)
            for (int book = 0; book < m.books; book++)
                build_table(m, x + g * (size_t)m.width, book, to + ((g - begin) * (size_t)m.books + (size_t)book) * (size_t)entries);
        if (tables.exact) continue;
        float most = 0, sum = 0;
        bool finite = true;
        for (size_t t = 0; t < count; t++) {
            float half;
            range_of(to + t * (size_t)entries, entries, &middles[t], &half);
            most = half > most ? half : most;
            sum += middles[t];
            finite = finite && half <= 3.0e38f && __builtin_fabsf(middles[t]) <= 3.0e38f;
        }
        const float scale = most / 127.0f;
        tables.scales[block] = finite ? scale : __builtin_nanf("");
        tables.middles[block] = finite ? sum : __builtin_nanf("");
        const float inverse = finite && scale >= 1.0e-37f ? 1.0f / scale : 0.0f;
        uint8_t* bytes = tables.bytes + begin * (size_t)m.books * (size_t)entries;
        for (size_t t = 0; t < count; t++)
            quantize_table(to + t * (size_t)entries, entries, inverse == 0.0f ? 0.0f : middles[t], inverse, bytes + t * (size_t)entries);
    }
}

// Bytes are summed in 16 bits: `all` takes them in pairs and wraps around, `high` takes the upper ones alone; the lower sums
// are all − 256·high.
static inline U16 upper_bytes(U32 bytes) { return (U16)bytes >> 8; }

// Shuffles, not memory: a sum whose address is taken would live on the stack through its whole loop.
static inline I32 half_of(U16 v, int half) {
    const U16half part = half ? __builtin_shufflevector(v, v, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31)
                              : __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_convertvector(part, I32);
}

// Adds what `count` bytes around 128 stand for to 64 sums.
static inline void flush(const I32* sums, int count, float scale, float middle, float* sum64) {
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
        const F32 v = to_float(sums[q] - 128 * count) * splat(scale) + splat(middle);
        store_float(sum64 + 16 * q, load_float(sum64 + 16 * q) + v);
    }
}

static inline void block_of_bytes8(const uint8_t* p, const uint8_t* next, const uint8_t* table, int count, I32* sums) {
    U16 all = {}, high = {};
    for (int t = 0; t < count; t++) {
        __builtin_prefetch(next + 64 * t);
        const U32 bytes = lut_256(table + 256 * t, load_codes(p + 64 * t));
        all += (U16)bytes;
        high += upper_bytes(bytes);
    }
    const U16 low = all - (high << 8);
    sums[0] = half_of(low, 0), sums[1] = half_of(low, 1), sums[2] = half_of(high, 0), sums[3] = half_of(high, 1);
}

// Two tables a register: the lower half is of the first, the upper of the second. Low nibbles are rows 0–31, high ones 32–63.
static inline void block_of_bytes4(const uint8_t* p, const uint8_t* next, const uint8_t* table, int count, I32* sums) {
    const U32 nibble = splat(0x0F0F0F0Fu);
    U16 all = {}, high = {}, all2 = {}, high2 = {};
    int t = 0;
    for (; t + 2 <= count; t += 2) {
        __builtin_prefetch(next + 32 * t);
        const PairTable both = make_pair_table(table + 16 * t);
        const U32 codes = load_codes(p + 32 * t);
        const U32 bytes = lut_pair(both, codes & nibble), bytes2 = lut_pair(both, (codes >> 4) & nibble);
        all += (U16)bytes, high += upper_bytes(bytes);
        all2 += (U16)bytes2, high2 += upper_bytes(bytes2);
    }
    if (t < count) {
        alignas(64) uint8_t last[64] = {}, tables[32] = {};
        __builtin_memcpy(last, p + 32 * t, 32);
        __builtin_memcpy(tables, table + 16 * t, 16);
        const PairTable both = make_pair_table(tables);
        const U32 codes = load_codes(last);
        const U32 bytes = lut_pair(both, codes & nibble), bytes2 = lut_pair(both, (codes >> 4) & nibble);
        all += (U16)bytes, high += upper_bytes(bytes);
        all2 += (U16)bytes2, high2 += upper_bytes(bytes2);
    }
    // of each register, bytes b and 32 + b belong to the same row
    const U16 low = all - (high << 8), low2 = all2 - (high2 << 8);
    sums[0] = half_of(low, 0) + half_of(low, 1), sums[1] = half_of(low2, 0) + half_of(low2, 1);
    sums[2] = half_of(high, 0) + half_of(high, 1), sums[3] = half_of(high2, 0) + half_of(high2, 1);
}

// The first 32 sums are those of the even rows.
static inline void finish(const Additive& m, size_t panel, const float* sums, float* y) {
    for (int i = 0; i < 32; i++)
        for (int odd = 0; odd < 2; odd++) {
            const size_t row = panel * kLanes + 2 * (size_t)i + (size_t)odd;
            y[row] = sums[32 * odd + i] * (m.scales ? m.scales[row] : 1.0f);
        }
}

static void matvec_bytes(const Additive& m, const Tables& tables, size_t first, size_t last, float* y) {
    const size_t size = m.panel_bytes(), entries = size_t{1} << m.bits, books = (size_t)m.books;
    // tables that all stay close need no sharing: one panel at a time is one forward stream
    const size_t chunk = m.pairs() * entries <= (size_t{1} << 16) ? 1 : kChunk;
    alignas(64) float sums[kChunk][kLanes];
    for (size_t top = first; top < last; top += chunk) {
        const size_t bottom = std::min(top + chunk, last);
        __builtin_memset(sums, 0, sizeof sums);
        for (size_t block = 0; block < m.blocks(); block++) {
            const size_t begin = block * m.block(), end = block_end(m, block);
            const int count = (int)((end - begin) * books);
            const uint8_t* table = tables.bytes + begin * books * entries;
            for (size_t panel = top; panel < bottom; panel++) {
                const uint8_t* p = m.codes + panel * size + begin * books * m.code_bytes();
                const uint8_t* next = panel + 1 < bottom ? p + size : m.codes + top * size + end * books * m.code_bytes();
                I32 found[4];
                if (m.bits == 8) {
                    block_of_bytes8(p, next, table, count, found);
                } else {
                    block_of_bytes4(p, next, table, count, found);
                }
                flush(found, count, tables.scales[block], tables.middles[block], sums[panel - top]);
            }
        }
        for (size_t panel = top; panel < bottom; panel++) finish(m, panel, sums[panel - top], y);
    }
}

static void matvec_exact(const Additive& m, const Tables& tables, size_t first, size_t last, float* y) {
    const size_t size = m.panel_bytes(), entries = size_t{1} << m.bits, books = (size_t)m.books;
    const U32 nibble = splat(15u);
    alignas(64) float sums[kChunk][kLanes];
    for (size_t top = first; top < last; top += kChunk) {
        const size_t bottom = std::min(top + kChunk, last);
        __builtin_memset(sums, 0, sizeof sums);
        for (size_t block = 0; block < m.blocks(); block++) {
            const size_t begin = block * m.block() * books, end = block_end(m, block) * books;
            for (size_t panel = top; panel < bottom; panel++) {
                F32 sum[4] = {};
                for (size_t t = begin; t < end; t++) {
                    const uint8_t* p = m.codes + panel * size + t * m.code_bytes();
                    const float* table = tables.exact + t * entries;
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
#pragma GCC unroll 4
                for (int q = 0; q < 4; q++) store_float(sums[panel - top] + 16 * q, load_float(sums[panel - top] + 16 * q) + sum[q]);
            }
        }
        for (size_t panel = top; panel < bottom; panel++)
            for (size_t r = 0; r < kLanes; r++) y[panel * kLanes + r] = sums[panel - top][r] * (m.scales ? m.scales[panel * kLanes + r] : 1.0f);
    }
}

static inline size_t code_at(const Additive& m, const uint8_t* p, size_t row) {
    if (m.bits == 8) return p[row];
    if (m.bits == 16) return (size_t)p[row] | (size_t)p[64 + row] << 8;
    return row < 32 ? p[row] & 15u : p[row - 32] >> 4;
}

// Codes too wide for tables: entries are read from the book, eight inputs at a time; the rest of a group one by one.
static void matvec_wide(const Additive& m, const float* x, size_t first, size_t last, float* y) {
    const size_t width = (size_t)m.width, eights = width / 8 * 8, entries = size_t{1} << m.bits;
    for (size_t panel = first; panel < last; panel++) {
        F8 sums[kLanes] = {};
        const uint8_t* p = m.codes + panel * m.panel_bytes();
        for (size_t g = 0; g < m.groups; g++)
            for (size_t book = 0; book < (size_t)m.books; book++, p += m.code_bytes()) {
                const float* from = m.books_by_entry + book * entries * width;
                for (size_t i = 0; i < width; i += 8) {
                    const float* xs = x + g * width + i;
                    F8 part = {};
                    if (i < eights) {
                        part = *(const F8u*)xs;
                    } else {
                        for (size_t k = 0; k < width - eights; k++) part[k] = xs[k];
                    }
                    for (size_t r = 0; r < kLanes; r++) {
                        const float* entry = from + code_at(m, p, r) * width + i;
                        F8 w = {};
                        if (i < eights) {
                            w = *(const F8u*)entry;
                        } else {
                            for (size_t k = 0; k < width - eights; k++) w[k] = entry[k];
                        }
                        sums[r] += part * w;
                    }
                }
            }
        for (size_t r = 0; r < kLanes; r++) {
            const F8 s = sums[r];
            const float sum = ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
            y[panel * kLanes + r] = sum * (m.scales ? m.scales[panel * kLanes + r] : 1.0f);
        }
    }
}

static inline void store_floats(Value dtype, void* out, size_t at, const float* values, size_t count) {
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const F32 v = load_float(values + i);
        if (dtype == Value::float32) {
            store_float((float*)out + at + i, v);
        } else if (dtype == Value::bfloat16) {
            store_bfloat((uint16_t*)out + at + i, v);
        } else {
            store_half((uint16_t*)out + at + i, v);
        }
    }
    if (i < count) {
        alignas(64) float rest[16] = {}, stored[16];
        __builtin_memcpy(rest, values + i, 4 * (count - i));
        store_floats(dtype, stored, 0, rest, 16);
        const size_t size = dtype == Value::float32 ? 4 : 2;
        __builtin_memcpy((char*)out + size * (at + i), stored, size * (count - i));
    }
}

static void decode(const Additive& m, size_t first, size_t last, Value dtype, void* out) {
    const size_t width = (size_t)m.width, books = (size_t)m.books, entries = size_t{1} << m.bits, inputs = m.groups * width;
    const size_t step = std::max<size_t>(1, 256 / width);  // groups decoded at a time
    alignas(64) float line[4096 + 16];
    for (size_t panel = first; panel < last; panel++) {
        const size_t rows = std::min<size_t>(kLanes, m.rows - panel * kLanes);
        const uint8_t* codes = m.codes + panel * m.panel_bytes();
        for (size_t g = 0; g < m.groups; g += step) {
            const size_t end = std::min(g + step, m.groups);
            for (size_t r = 0; r < rows; r++) {
                const float scale = m.scales ? m.scales[panel * kLanes + r] : 1.0f;
                for (size_t j = g; j < end; j++) {
                    const uint8_t* p = codes + j * books * m.code_bytes();
                    float* to = line + (j - g) * width;
                    size_t i = 0;
                    for (; i + 8 <= width; i += 8) {
                        F8 v = *(const F8u*)(m.books_by_entry + code_at(m, p, r) * width + i);
                        for (size_t book = 1; book < books; book++)
                            v += *(const F8u*)(m.books_by_entry + (book * entries + code_at(m, p + book * m.code_bytes(), r)) * width + i);
                        *(F8u*)(to + i) = m.scales ? scale * v : v;
                    }
                    for (; i < width; i++) {
                        float v = m.books_by_entry[code_at(m, p, r) * width + i];
                        for (size_t book = 1; book < books; book++)
                            v += m.books_by_entry[(book * entries + code_at(m, p + book * m.code_bytes(), r)) * width + i];
                        to[i] = m.scales ? scale * v : v;
                    }
                }
                store_floats(dtype, out, ((panel - first) * kLanes + r) * inputs + g * width, line, (end - g) * width);
            }
        }
    }
}
