#include "trellis.h"

namespace qformat {
namespace trellis_in_generic {
#include "vec_generic.h"

#include "trellis_unpack-inl.h"

// A state is the one before it and a code.
template <int WIDTH>
static void states(const uint8_t* codes, size_t steps, uint16_t* words) {
    unpack_words<WIDTH>(codes, steps, words);
    uint32_t state = 0;
    for (size_t i = steps - kStateBits; i < steps; i++) state = state << WIDTH | words[i];
    for (size_t i = 0; i < steps; i++) words[i] = (uint16_t)(state = state << WIDTH | words[i]);
}

struct TwoRows {
    U32 of[2];
};

struct Order {
    const Trellis& m;
    explicit Order(const Trellis& trellis) : m(trellis) {}

    TwoRows two_rows(const uint16_t* states) const {
        uint32_t rows[2][kSide];
        for (size_t half = 0; half < 2; half++)
            for (size_t i = 0; i < kSide; i++) rows[half][i] = states[m.within[half][i]];
        return {{*(const U32u*)rows[0], *(const U32u*)rows[1]}};
    }
    U32 two_halves(const uint16_t* states) const {
        uint32_t halves[kSide];
        for (size_t i = 0; i < kSide; i++) halves[i] = states[m.step(i)];
        return *(const U32u*)halves;
    }
};

#include "trellis_pairs-inl.h"

#include "trellis-inl.h"
}  // namespace trellis_in_generic

void trellis_generic(const void* coded, const Rectangle& r, float* out, size_t stride) { trellis_in_generic::decode(coded, r, out, stride); }

}  // namespace qformat
