// Decoding of lattices: codes to eight bytes each, in general registers, then sixteen bytes at a time to their levels.

// Points whose bytes are kept between the two.
constexpr size_t kAtOnce = 128;

// middle + above − below, byte by byte, where those of negative numbers have changed places: no byte carries into the next.
static inline uint64_t signed_point(const Lattice& m, const uint8_t* code) {
    const uint64_t *point = m.points + 2 * code[1], *sign = m.signs + 2 * code[0];
    const uint64_t changed = (point[0] ^ point[1]) & sign[0];
    return sign[1] + (point[0] ^ changed) - (point[1] ^ changed);
}

static inline void look_up(const Lattice& m, size_t at, size_t count, uint64_t* points) {
    if (m.bits == 8) {
#pragma GCC unroll 4
        for (size_t i = 0; i < count; i++) points[i] = m.points[m.codes[at + i]];
    } else {
#pragma GCC unroll 4
        for (size_t i = 0; i < count; i++) points[i] = signed_point(m, m.codes + 2 * (at + i));
    }
}

// Writes the levels of `count` points to `out`, or adds them to what is there.
template <bool FIRST>
static inline void add_levels(const float* levels, const uint64_t* points, size_t count, float* out) {
    const F32 table = load_float(levels);
    const uint8_t* bytes = (const uint8_t*)points;
    size_t i = 0;
#pragma GCC unroll 4
    for (; i + 2 <= count; i += 2) {
        float* to = out + kPoint * i;
        const F32 found = lut16(table, widen(bytes + kPoint * i));
        store_float(to, FIRST ? found : load_float(to) + found);
    }
    if (i == count) return;
    float* to = out + kPoint * i;
    uint8_t last[16] = {};
    float sum[16] = {};
    __builtin_memcpy(last, bytes + kPoint * i, kPoint);
    if (!FIRST) __builtin_memcpy(sum, to, 4 * kPoint);
    const F32 found = lut16(table, widen(last));
    store_float(sum, FIRST ? found : load_float(sum) + found);
    __builtin_memcpy(to, sum, 4 * kPoint);
}

static void decode(const void* coded, const Rectangle& r, float* out, size_t stride) {
    const Lattices& m = *(const Lattices*)coded;
    uint64_t points[kAtOnce];
    for (size_t row = r.first; row < r.last; row++, out += stride)
        for (size_t from = r.left / kPoint, until = r.right / kPoint; from < until; from += kAtOnce) {
            const size_t count = std::min(kAtOnce, until - from);
            for (int i = 0; i < m.count; i++) {
                look_up(m.of[i], row * m.points + from, count, points);
                float* to = out + kPoint * from - r.left;
                i == 0 ? add_levels<true>(m.of[i].levels, points, count, to) : add_levels<false>(m.of[i].levels, points, count, to);
            }
        }
}
