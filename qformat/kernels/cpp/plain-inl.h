// Decoding of affine and lookup codes in the plain layout, over the vocabulary of one instruction set. Included inside its
// namespace.
//
// A row is decoded in chunks: its codes become bytes, bytes become what the coding starts from, and that is finished with the
// numbers of the groups: those of a run of weights in every lane, or those of single weights one by one.

constexpr size_t kChunk = 1024;  // weights

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
    alignas(64) float starts[kChunk + 64];
    alignas(64) float scales[kChunk], minus[kChunk], plus[kChunk];
};

// Codes [first, first + count) of the stream, one a byte, and what `unpack_some` makes of those up to the next multiple of 16;
// up to the next multiple of 64 there are bytes.
static const uint8_t* unpack(const Plain& m, size_t first, size_t count, Scratch& scratch) {
    const size_t before = first % 8, at = first / 8 * (size_t)m.bits, left = m.nbytes - at, padded = before + (count + 15) / 16 * 16;
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

// Each is told when a row begins and when codes have been unpacked, and then gives what 16 of them start from.
struct Number {
    const uint8_t* codes = nullptr;
    void row(const Plain&, size_t) {}
    void open(const Plain&, const uint8_t* unpacked, size_t, Scratch&) { codes = unpacked; }
    F32 operator()(const Plain& m, size_t i) const { return to_float(widen(codes + i)) - splat(m.bias); }
};

// Tables of up to 16 entries are one register.
struct Entry {
    F32 table = {};
    const uint8_t* codes = nullptr;
    void row(const Plain& m, size_t row) { __builtin_memcpy(&table, m.table + row * m.table_step, sizeof(float) << m.bits); }
    void open(const Plain&, const uint8_t* unpacked, size_t, Scratch&) { codes = unpacked; }
    F32 operator()(const Plain&, size_t i) const { return lut16(table, widen(codes + i)); }
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
    LargeTable table;
    const float *set = nullptr, *starts = nullptr;
    void row(const Plain& m, size_t row) {
        const float* its = m.table + row * m.table_step;
        if (its != set) table.set(its, 1 << m.bits);
        set = its;
    }
    void open(const Plain&, const uint8_t* unpacked, size_t count, Scratch& scratch) {
        table.look_up(unpacked, count, scratch.starts);
        starts = scratch.starts;
    }
    F32 operator()(const Plain&, size_t i) const { return load_float(starts + i); }
};

// -- weights ----------------------------------------------------------------------------------------------------------

// Up to 16 weights of a row that ends at `end`. All 16 are written if there is room: those that follow are written later.
static inline void put(float* to, F32 v, size_t count, const float* end) {
    if (count >= 16 || end - to >= 16) {
        store_float(to, v);
    } else {
        __builtin_memcpy(to, &v, sizeof(float) * count);
    }
}

// Weights of one row whose groups are runs of columns; the first is at place `at` of group `group`.
template <class Start>
static inline void runs(const Plain& m, const Start& start, size_t group, size_t at, size_t count, float* out, const float* end) {
    for (size_t i = 0; i < count; group++, at = 0) {
        const size_t stop = i + std::min(m.group.size - at, count - i);
        const F32 scale = splat(m.scales ? m.scales[group] : 1.0f), minus = splat(m.minus ? m.minus[group] : 0.0f);
        const F32 plus = splat(m.plus ? m.plus[group] : m.offset);
        for (; i < stop; i += 16) put(out + i, scale * (start(m, i) - minus) + plus, stop - i, end);
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
    for (size_t i = 0; i < count; i += 16) {
        F32 v = start(m, i);
        if (minus) v = v - load_float(minus + i);
        if (scales) v = load_float(scales + i) * v;
        put(out + i, v + (plus ? load_float(plus + i) : splat(m.offset)), count - i, end);
    }
}

// Columns [begin, begin + count) of a row.
template <class Start>
static inline void chunk(const Plain& m, Start& start, size_t row, size_t begin, size_t count, Scratch& scratch, float* out,
                         const float* end) {
    const Grouping& g = m.group;
    start.open(m, unpack(m, m.skip + row * m.inputs + begin, count, scratch), count, scratch);
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

template <class Start>
static void rows(const Plain& m, const Rectangle& r, float* out, size_t stride) {
    Scratch scratch;
    Start start;
    for (size_t row = r.first; row < r.last; row++, out += stride) {
        start.row(m, row);
        for (size_t begin = r.left; begin < r.right; begin += kChunk)
            chunk(m, start, row, begin, std::min(kChunk, r.right - begin), scratch, out + begin - r.left, out + r.right - r.left);
    }
}

static void decode(const void* coded, const Rectangle& r, float* out, size_t stride) {
    const Plain& m = *(const Plain*)coded;
    if (!m.table) return rows<Number>(m, r, out, stride);
    m.bits <= 4 ? rows<Entry>(m, r, out, stride) : rows<LargeEntry>(m, r, out, stride);
}
