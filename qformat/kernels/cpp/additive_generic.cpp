#include "additive.h"

namespace qformat {
namespace additive_in_generic {
#include "vec_generic.h"

// A table of 256 bytes.
static inline U32 lut_256(const uint8_t* table, U32 index) { return lut_bytes<8>(make_byte_table(table), index); }
// The lowest byte of every lane.
static inline void store_low_bytes(uint8_t* p, U32 v) {
    for (int lane = 0; lane < 16; lane++) p[lane] = (uint8_t)v[lane];
}

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

static const AdditiveKernels table = {build, matvec_bytes, matvec_exact, matvec_wide, decode};
}  // namespace additive_in_generic

const AdditiveKernels* additive_generic() { return &additive_in_generic::table; }

}  // namespace qformat
