// Decoding of trellises, a tile at a time: the states of its steps, these in the order of two rows, their weights. What includes this
// has, in the ways of its instruction set,
//   states<WIDTH>(codes, steps, words)  the states of a tile, one a step
//   Order(trellis)                      two_rows(s): 32 states as they lie along the steps, as sixteen each of two rows; two_halves(s):
//                                       the same of sixteen steps of two weights, eight states of each row
//   store_pairs(table, i, f, half, to)  eight pairs of floats, at the lower or upper eight indices; the first one's sign is turned where
//                                       f has its bit 31
//   QF_COMPUTES, computes(function)     whether a function is computed: else its table is read, as is right for every function
// and, where it computes, byte_sums(v) of each lane's four bytes, divide(v, by) as a division rounds whole numbers up to 510, and
// round_to_half(v) to float16 and back.

// -- functions of sixteen states ----------------------------------------------------------------------------------------

#if defined(QF_COMPUTES)

static inline F32 near_gaussian(U32 x) { return divide(to_float(byte_sums(x)) - splat(510.0f), 147.800537109375f); }

static inline F32 two_halves(U32 x) {
    const U32 both = (x & splat(0x8FFF8FFFu)) ^ splat(0x3B603B60u), sign = splat(0x80000000u), magnitude = splat(0x0FFFE000u);
    const U32 bias = splat(112u << 23);  // both are normal numbers
    const F32 low = (F32)(((both << 16) & sign) | (((both << 13) & magnitude) + bias));
    const F32 high = (F32)((both & sign) | (((both >> 3) & magnitude) + bias));
    return round_to_half(low + high);
}

template <StateFunction F>
static inline F32 computed(U32 x) {
    if constexpr (F == StateFunction::one_mad) return near_gaussian(x * 34038481u + 76625530u);
    if constexpr (F == StateFunction::three_inst) return two_halves(x * 89226354u + 64248484u);
    if constexpr (F == StateFunction::mcg) return two_halves(x * 0xCBAC1FEDu);
    // exact before it is rounded once: 22 bits
    if constexpr (F == StateFunction::mul1)
        return round_to_half(to_float(byte_sums(x * 0x83DCD12Du) + 1024u) * splat(0x1.BB8p-8f) - splat(0x1.4C4p3f));
}
#endif

// Where the table has a state, and a bit 31 for each of those that turn the sign of their first weight.
struct Found {
    U32 index, turned;
};
template <StateFunction F>
static inline Found find(const Trellis& m, U32 x) {
    const U32 mask = splat((uint32_t)((1 << m.table_bits) - 1));
    if constexpr (F <= StateFunction::lut) return {x & mask, U32{}};
    const U32 hash = x * (x + 1u);
    constexpr bool turns = F == StateFunction::quantlut_sym;
    return {hash >> ((turns ? 15 : 16) - m.table_bits) & mask, turns ? (hash << 16) & 0x80000000u : U32{}};
}

// -- tiles --------------------------------------------------------------------------------------------------------------

template <StateFunction F, int VECTOR>
static void weights(const Trellis& m, const uint16_t* states, float* out, size_t stride) {
    const Order order(m);
    for (size_t i = 0; i < kTile / kPlaces; i++) {
        float* const to[2] = {out + m.rows[i][0] * stride, out + m.rows[i][1] * stride};
        if constexpr (VECTOR == 2) {
            const Found found = find<F>(m, order.two_halves(states + kSide * i));
            for (int half = 0; half < 2; half++) store_pairs(m.table, found.index, found.turned, half, to[half]);
        } else {
            const TwoRows rows = order.two_rows(states + kPlaces * i);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
#if defined(QF_COMPUTES)
                if constexpr (computes(F)) {
                    store_float(to[half], computed<F>(rows.of[half]));
                    continue;
                }
#endif
                const Found found = find<F>(m, rows.of[half]);
                store_float(to[half], (F32)((U32)gather(m.table, found.index) ^ found.turned));
            }
        }
    }
}

using StatesOf = void (*)(const uint8_t*, size_t, uint16_t*);
using WeightsOf = void (*)(const Trellis&, const uint16_t*, float*, size_t);

static StatesOf states_of(int width) {
    static constexpr StatesOf all[] = {states<1>, states<2>,  states<3>, states<4>,  states<5>, states<6>,  states<7>, states<8>,
                                       nullptr,   states<10>, nullptr,   states<12>, nullptr,   states<14>, nullptr,   states<16>};
    return all[width - 1];
}

static WeightsOf weights_of(const Trellis& m) {
    using enum StateFunction;
    switch (m.function) {
#if defined(QF_COMPUTES)
        case one_mad: return weights<one_mad, 1>;
        case three_inst: return weights<three_inst, 1>;
        case mcg: return weights<mcg, 1>;
        case mul1: return weights<mul1, 1>;
#endif
        case quantlut: return m.vector == 1 ? weights<quantlut, 1> : weights<quantlut, 2>;
        case quantlut_sym: return m.vector == 1 ? weights<quantlut_sym, 1> : weights<quantlut_sym, 2>;
        default: return m.vector == 1 ? weights<lut, 1> : weights<lut, 2>;
    }
}

static void decode(const void* coded, const Rectangle& r, float* out, size_t stride) {
    const Trellis& m = *(const Trellis*)coded;
    const StatesOf states = states_of(m.width);
    const WeightsOf weights = weights_of(m);
    const size_t steps = kTile / (size_t)m.vector;
    alignas(64) uint16_t found[kTile];
    for (size_t top = r.first; top < r.last; top += kSide)
        for (size_t left = r.left; left < r.right; left += kSide) {
            const uint8_t* codes = m.codes + (top / kSide * m.across + left / kSide) * m.tile_bytes();
            states(codes, steps, found);
            float* to = out + (top - r.first) * stride + (left - r.left);
            const size_t rows = std::min(kSide, r.last - top), inputs = std::min(kSide, r.right - left);
            if (rows == kSide && inputs == kSide) {
                weights(m, found, to, stride);
                continue;
            }
            float tile[kTile];
            weights(m, found, tile, kSide);
            for (size_t row = 0; row < rows; row++) __builtin_memcpy(to + row * stride, tile + row * kSide, 4 * inputs);
        }
}
