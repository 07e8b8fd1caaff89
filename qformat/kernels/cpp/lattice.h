// Points of lattices (spec/codings/lattice.md) for the kernels: eight bytes, which number the levels that the lattice has.
#pragma once

#include "strips.h"

namespace qformat {

constexpr int kLattices = 4;
constexpr size_t kPoint = 8;  // inputs of a point

struct Lattice {
    const uint8_t* codes;  // (rows, points), of 8 or 16 bits
    int bits;
    // The numbers of the levels, a byte each. 8 bits: of every point. 16 bits: of a point without signs, as `above` and `below` the
    // middle, by the upper byte of its code.
    const uint64_t* points;
    // 16 bits: `negative`, all ones where a number is, and `middle`, by the lower byte of a code.
    const uint64_t* signs;
    float levels[16];  // times the factor
};

struct Lattices {
    size_t points;  // of a row
    int count;
    Lattice of[kLattices];
};

void lattice_generic(const void*, const Rectangle&, float*, size_t);
void lattice_avx2(const void*, const Rectangle&, float*, size_t);
void lattice_avx512(const void*, const Rectangle&, float*, size_t);

}  // namespace qformat
