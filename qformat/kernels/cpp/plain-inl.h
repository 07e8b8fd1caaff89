// Decoding of affine, lookup and additive codes in the plain layout, over the vocabulary of one instruction set. Included inside
// its namespace.
//
// A row is decoded in chunks: its codes become bytes, bytes become what the coding starts from, and that is finished with the
// numbers of the groups: those of a run of weights in every lane, or those of single weights one by one.

constexpr size_t kChunk = 1024;  // weights; of additive codes, whose blocks are not cut, up to kMostWide

typedef uint64_t U64 __attribute__((vector_size(64)));

// -- codes ------------------------------------------------------------------------------------------------------------

#if !defined(QF_HAS_UNPACK64)
// Bytes that `unpack64` may read.
template <int BITS>
constexpr size_t kReach = 7 * BITS + 8;

// 64 codes as bytes: eight codes are BITS whole bytes, which are halved until a byte holds one code.
template <int BITS>
static inline void unpack64(const uint8_t* p, uint8_t* to) {
    constexpr uint64_t four = (1ull << 4 * BITS) - 1, two = ((1ull << 2 * BITS) - 1) * 0x0000000100000001ull,
                       one = ((1ull << BITS) - 1) * 0x0001000100010001ull;
    uint64_t words[8];
    for (int i = 0; i < 8; i++) __builtin_memcpy(words + i, p + i * BITS, 8);
    U64 v;
    __builtin_memcpy(&v, words, 64);
    v = (v & four) | ((v << (32 - 4 * BITS)) & (four << 32));
    v = (v & two) | ((v << (16 - 2 * BITS)) & (two << 16));
    v = (v & one) | ((v << (8 - BITS)) & (one << 8));
    __builtin_memcpy(to, &v, 64);
}
#endif

// `count` codes from `p` on to `to`, which has room for 63 more. Of the `left` bytes that are there some may be missing, whose codes
// are zero, or, if they are whole bytes, anything.
template <int BITS>
static inline void unpack_some(const uint8_t* p, size_t left, size_t count, uint8_t* to) {
    if (BITS == 8) {
        __builtin_memcpy(to, p, left < count ? left : count);
        return;
    }
    constexpr size_t step = 8 * BITS, reach = kReach<BITS == 8 ? 1 : BITS>;
    size_t i = 0;
    for (; i < count && left >= reach; i += 64, p += step, left -= step) unpack64<BITS == 8 ? 1 : BITS>(p, to + i);
    for (; i < count; i += 64) {
        uint8_t last[64] = {};
        const size_t here = left < step ? left : step;
        __builtin_memcpy(last, p, here);
        unpack64<BITS == 8 ? 1 : BITS>(last, to + i);
        p += here, left -= here;
    }
}

struct Scratch {
    alignas(64) uint8_t codes[kChunk + 128];
    alignas(64) float starts[kMostWide + 64];
    alignas(64) float scales[kMostWide], minus[kMostWide], plus[kMostWide];
};

// `count` codes of a row from column `begin` on, one a byte, and what `unpack_some` makes of those up to the next multiple of 16;
// up to the next multiple of 64 there are bytes.
static const uint8_t* unpack(const Plain& m, size_t row, size_t begin, size_t count, Scratch& scratch) {
    const size_t first = m.skip + row * m.inputs + begin, before = first % 8, padded = before + (count + 15) / 16 * 16;
    const size_t at = first / 8 * (size_t)m.bits, left = m.nbytes - at;
    const uint8_t* p = m.codes + at;
    switch (m.bits) {
        case 1: unpack_some<1>(p, left, padded, scratch.codes); break;
        case 2: unpack_some<2>(p, left, padded, scratch.codes); break;
        case 3: unpack_some<3>(p, left, padded, scratch.codes); break;
        case 4: unpack_some<4>(p, left, padded, scratch.codes); break;
        case 5: unpack_some<5>(p, left, padded, scratch.codes); break;
        case 6: unpack_some<6>(p, left, padded, scratch.codes); break;
        case 7: unpack_some<7>(p, left, padded, scratch.codes); break;
        default: unpack_some<8>(p, left, padded, scratch.codes);
    }
    return scratch.codes + before;
}

// -- what weights start from ------------------------------------------------------------------------------------------

// Each is told of `count` weights of a row, from column `begin` on, and then gives what 16 of them start from.
struct Number {
    const Plain& m;
    const uint8_t* codes = nullptr;
    void open(size_t row, size_t begin, size_t count, Scratch& scratch) { codes = unpack(m, row, begin, count, scratch); }
    F32 operator()(size_t i) const { return to_float(widen(codes + i)) - splat(m.bias); }
};

// Tables of up to 16 entries are one register.
struct Entry {
    const Plain& m;
    F32 table = {};
    const uint8_t* codes = nullptr;
    void open(size_t row, size_t begin, size_t count, Scratch& scratch) {
        codes = unpack(m, row, begin, count, scratch);
        __builtin_memcpy(&table, m.table + row * m.table_step, sizeof(float) << m.bits);
    }
    F32 operator()(size_t i) const { return lut16(table, widen(codes + i)); }
};

#if !defined(QF_HAS_LARGE_TABLE)
struct LargeTable {
    const float* entries;
    void set(const float* from, int) { entries = from; }
    void look_up(const uint8_t* codes, size_t count, float* to) const {
        for (size_t i = 0; i < count; i += 16) store_float(to + i, gather(entries, widen(codes + i)));
    }
};
#endif

struct LargeEntry {
    const Plain& m;
    LargeTable table = {};
    const float *set = nullptr, *starts = nullptr;
    void open(size_t row, size_t begin, size_t count, Scratch& scratch) {
        const float* its = m.table + row * m.table_step;
        if (its != set) table.set(its, 1 << m.bits);
        set = its, starts = scratch.starts;
        table.look_up(unpack(m, row, begin, count, scratch), count, scratch.starts);
    }
    F32 operator()(size_t i) const { return load_float(starts + i); }
};

// One row of blocks that are sums of an entry of each book.
struct Sum {
    const Sums& m;
    const float* starts = nullptr;
    size_t code(size_t number) const {
        const size_t bit = number * (size_t)m.bits, left = m.nbytes - bit / 8;
        uint32_t word = 0;
        if (left >= 4) {
            __builtin_memcpy(&word, m.codes + bit / 8, 4);
        } else {
            __builtin_memcpy(&word, m.codes + bit / 8, left);
        }
        return (word >> bit % 8) & ((1u << m.bits) - 1);
    }
    void open(size_t row, size_t begin, size_t count, Scratch& scratch) {
        starts = scratch.starts;
        size_t number = m.skip + (row / m.block_rows * (m.inputs / m.wide) + begin / m.wide) * m.count;
        for (float *to = scratch.starts, *end = to + count; to < end; to += m.wide) {
            const float* entries[kMostBooks];
            for (size_t book = 0; book < m.count; book++)
                entries[book] = m.books + (((book << m.bits) + code(number++)) * m.block_rows + row % m.block_rows) * m.wide;
            // what is written beyond the block is written again, or nobody's
            for (size_t i = 0; i < m.wide; i += 16) {
                F32 v = load_float(entries[0] + i);
                for (size_t book = 1; book < m.count; book++) v = v + load_float(entries[book] + i);
                store_float(to + i, v);
            }
        }
    }
    F32 operator()(size_t i) const { return load_float(starts + i); }
};

// -- weights ----------------------------------------------------------------------------------------------------------

// Weights [i, stop) of a row that ends at `end`. Behind those that do not fill a register more are written if there is room, which
// are written again.
template <class Value>
static inline void put(size_t i, size_t stop, const Value& value, float* out, const float* end) {
#pragma GCC unroll 4
    for (; i + 16 <= stop; i += 16) store_float(out + i, value(i));
    if (i == stop) return;
    const F32 last = value(i);
    if (end - (out + i) >= 16) {
        store_float(out + i, last);
    } else {
        __builtin_memcpy(out + i, &last, sizeof(float) * (stop - i));
    }
}

// Weights of one row whose groups are runs of columns; the first is at `place` of group `group`.
template <class Start>
static inline void runs(const Plain& m, const Start& start, size_t group, size_t place, size_t count, float* out, const float* end) {
    for (size_t i = 0; i < count; group++, place = 0) {
        const size_t stop = i + std::min(m.group.size - place, count - i);
        const F32 scale = splat(m.scales ? m.scales[group] : 1.0f), minus = splat(m.minus ? m.minus[group] : 0.0f);
        const F32 plus = splat(m.plus ? m.plus[group] : m.offset);
        put(i, stop, [&](size_t at) { return scale * (start(at) - minus) + plus; }, out, end);
        i = stop;
    }
}

// The numbers of `count` weights, of a comb of `size` whose number `at` is the first one's: where they are or, if they are not
// together or what follows them cannot be read, in `room`.
static inline const float* repeated(const float* numbers, size_t size, size_t at, size_t count, float* room) {
    if (at + (count + 15) / 16 * 16 <= size) return numbers + at;
    for (size_t i = 0; i < count; at = 0) {
        const size_t here = std::min(size - at, count - i);
        __builtin_memcpy(room + i, numbers + at, sizeof(float) * here);
        i += here;
    }
    return room;
}

#if !defined(QF_HAS_PICKED)
// The numbers of `count` columns, whose groups are below `size`, in `room`.
static inline const float* picked(const float* numbers, size_t, const uint32_t* groups, size_t count, float* room) {
    size_t i = 0;
    for (; i + 16 <= count; i += 16) store_float(room + i, gather(numbers, load_codes(groups + i)));
    for (; i < count; i++) room[i] = numbers[groups[i]];
    return room;
}
#endif

// Weights that each have numbers of their own: find(numbers of the groups, room) gives them.
template <class Start, class Find>
static inline void singly(const Plain& m, const Start& start, const Find& find, Scratch& scratch, size_t count, float* out,
                          const float* end) {
    const float* scales = m.scales ? find(m.scales, scratch.scales) : nullptr;
    const float* minus = m.minus ? find(m.minus, scratch.minus) : nullptr;
    const float* plus = m.plus ? find(m.plus, scratch.plus) : nullptr;
    const auto value = [&](size_t i) {
        F32 v = start(i);
        if (minus) v = v - load_float(minus + i);
        if (scales) v = load_float(scales + i) * v;
        return v + (plus ? load_float(plus + i) : splat(m.offset));
    };
    put(0, count, value, out, end);
}

// Columns [begin, begin + count) of a row.
template <class Start>
static inline void chunk(const Plain& m, Start& start, size_t row, size_t begin, size_t count, Scratch& scratch, float* out,
                         const float* end) {
    const Grouping& g = m.group;
    start.open(row, begin, count, scratch);
    const auto each = [&](const auto& find) { singly(m, start, find, scratch, count, out, end); };
    const size_t at = g.first + row * m.inputs + begin;
    switch (g.spread) {
        case Spread::blocks: return runs(m, start, (g.first + row) / g.high * g.across + begin / g.size, begin % g.size, count, out, end);
        case Spread::flat: return runs(m, start, at / g.size, at % g.size, count, out, end);
        case Spread::comb: return each([&](const float* numbers, float* room) { return repeated(numbers, g.size, at % g.size, count, room); });
        default:
            return each([&](const float* numbers, float* room) { return picked(numbers + row * g.size, g.size, g.groups + begin, count, room); });
    }
}

// Chunks are of `step` weights.
template <class Start, class View>
static void rows(const View& m, size_t step, const Rectangle& r, float* out, size_t stride) {
    Scratch scratch;
    Start start{m};
    for (size_t row = r.first; row < r.last; row++, out += stride)
        for (size_t begin = r.left; begin < r.right; begin += step)
            chunk(m, start, row, begin, std::min(step, r.right - begin), scratch, out + begin - r.left, out + r.right - r.left);
}

static void decode(const void* coded, const Rectangle& r, float* out, size_t stride) {
    const Plain& m = *(const Plain*)coded;
    if (!m.table) return rows<Number>(m, kChunk, r, out, stride);
    m.bits <= 4 ? rows<Entry>(m, kChunk, r, out, stride) : rows<LargeEntry>(m, kChunk, r, out, stride);
}

static void decode_sums(const void* coded, const Rectangle& r, float* out, size_t stride) {
    const Sums& m = *(const Sums*)coded;
    rows<Sum>(m, std::max<size_t>(1, kChunk / m.wide) * m.wide, r, out, stride);
}
