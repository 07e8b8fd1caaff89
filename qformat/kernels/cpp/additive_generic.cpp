#include "additive.h"

namespace qformat {
namespace additive_in_generic {
#include "vec_generic.h"

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
