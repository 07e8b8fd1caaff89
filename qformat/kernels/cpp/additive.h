// What every instruction set offers for additive codes (spec/codings/additive.md): tables of partial products, looked up for
// 64 rows at a time, and decoding. Views over checked arrays, as in kernels.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace qformat {

constexpr int kLanes = 64;  // rows of a panel of additive codes

// A matrix of additive codes in the panel layout; entries are one row high.
struct Additive {
    const uint8_t* codes;    // first panel: (groups, books) of 8·bits bytes
    size_t rows, groups;     // output rows, input groups
    int books, bits, width;  // width: inputs of a group; bits: 4, 8 or 16
    const float* books_by_entry;   // (books, 2^bits, width)
    const float* books_by_input;   // (books, width, 2^bits); nullptr for 16 bits, which has no tables
    const float* scales;           // (panels · 64), zeros beyond the matrix; nullptr: 1

    size_t pairs() const { return groups * static_cast<size_t>(books); }
    size_t code_bytes() const { return 8 * static_cast<size_t>(bits); }  // of one group and book
    size_t panel_bytes() const { return pairs() * code_bytes(); }
    size_t panels() const { return (rows + kLanes - 1) / kLanes; }
    // Groups whose tables share a scale and fit the first-level cache together: at most 64 tables of 256 entries, 128 of 16.
    size_t block() const { return std::max<size_t>(1, (bits == 8 ? 64 : 128) / static_cast<size_t>(books)); }
    size_t blocks() const { return (groups + block() - 1) / block(); }
};

// Tables of partial products of one x: `exact` (pairs, 2^bits) floats, or `bytes` of round((product − middle)/scale) + 128.
struct Tables {
    float* exact;
    uint8_t* bytes;
    float* scales;   // bytes: of a block
    float* middles;  // bytes: the sum of the middles of a block's tables
};

struct AdditiveKernels {
    // blocks [first, last) of the tables of x
    void (*build)(const Additive&, const float* x, Tables&, size_t first, size_t last);
    // y (panels · 64): panels [first, last) from tables, or from x where the codes are too wide for tables
    void (*matvec_bytes)(const Additive&, const Tables&, size_t first, size_t last, float* y);
    void (*matvec_exact)(const Additive&, const Tables&, size_t first, size_t last, float* y);
    void (*matvec_wide)(const Additive&, const float* x, size_t first, size_t last, float* y);
    void (*decode)(const Additive&, size_t first, size_t last, Value dtype, void* out);
};

const AdditiveKernels* additive_generic();
const AdditiveKernels* additive_avx2();
const AdditiveKernels* additive_avx512();

}  // namespace qformat
