#include "additive.h"

namespace qformat {
namespace additive_in_generic {
#include "vec_generic.h"

// acc + the two products of each lane's signed words.
static inline I32 dot2(I32 acc, U32 a, U32 b) {
    const auto low = [](U32 v) { return (I32)(v << 16) >> 16; };
    return acc + low(a) * low(b) + ((I32)a >> 16) * ((I32)b >> 16);
}
// (words − middles) · factors / 2¹⁵, rounded, + 128: words of 16 bits of which the low byte is all.
static inline U32 quantize(U32 words, U32 middles, U32 factors) {
    const auto scaled = [&](U32 w, U32 m) { return (U32)(((((I32)w >> 16) - ((I32)m >> 16)) * ((I32)factors >> 16) + (1 << 14)) >> 15) + 128; };
    return scaled(words << 16, middles << 16) | scaled(words, middles) << 16;
}

// The low bytes of the first words of every lane, then those of the second ones, of each register.
static inline void store_low_bytes(uint8_t* p, U32 first, U32 second) {
    for (int lane = 0; lane < 16; lane++) {
        p[lane] = (uint8_t)first[lane], p[16 + lane] = (uint8_t)(first[lane] >> 16);
        p[32 + lane] = (uint8_t)second[lane], p[48 + lane] = (uint8_t)(second[lane] >> 16);
    }
}
// Of each word the upper byte.
static inline U32 upper_bytes(U32 bytes) { return (bytes >> 8) & 0x00FF00FFu; }

// Two tables of 16 bytes: lut_pair looks the lower 32 bytes up in the first and the upper 32 in the second.
struct PairTable {
    uint8_t entry[32];
};
static inline PairTable make_pair_table(const uint8_t* entries) {
    PairTable t;
    __builtin_memcpy(t.entry, entries, 32);
    return t;
}
static inline U32 lut_pair(const PairTable& t, U32 index) {
    uint8_t bytes[64];
    __builtin_memcpy(bytes, &index, 64);
    for (int i = 0; i < 64; i++) bytes[i] = t.entry[(i & 32) / 2 + (bytes[i] & 15)];
    U32 v;
    __builtin_memcpy(&v, bytes, 64);
    return v;
}

#include "additive-inl.h"

static const AdditiveKernels table = {sum_bytes, sum_exact, finish, matvec_wide, decode};
}  // namespace additive_in_generic

const AdditiveKernels* additive_generic() { return &additive_in_generic::table; }

}  // namespace qformat
