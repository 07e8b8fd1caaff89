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

#include "additive_tables-inl.h"

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

#include "additive_decode-inl.h"
