// What every instruction set offers for additive codes (spec/codings/additive.md): tables of partial products, looked up for
// 64 rows at a time, and decoding. Views over checked arrays, as in kernels.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace qformat {

constexpr int kLanes = 64;   // rows of a panel of additive codes
constexpr int kBatch = 8;    // rows of x that share a pass over the codes, at most
constexpr int kSegment = 8;  // inputs whose products are summed as integers
constexpr size_t kSegments = 1024;  // of a block, at most

// A matrix of additive codes in the panel layout; entries are one row high.
struct Additive {
    const uint8_t* codes;    // first panel: (groups, books) of 8·bits bytes
    size_t rows, groups;     // output rows, input groups
    int books, bits, width;  // width: inputs of a group; bits: 4, 8 or 16
    const float* books_by_entry;  // (books, 2^bits, width)
    // What tables are made of; nullptr for 16 bits, which has none.
    const float* books_by_input;   // (books, width, 2^bits)
    const uint32_t* pairs_by_input;  // (books, segments · 4, 2^bits): inputs 2i and 2i + 1 of entries as integers of 16 bits
    float unit;                      // what 1 stands for there
    bool normal;                     // weights are zero or normal numbers of float32, whatever the codes
    const float* scales;             // (panels · 64), zeros beyond the matrix; nullptr: 1

    size_t pairs() const { return groups * static_cast<size_t>(books); }
    size_t entries() const { return size_t{1} << bits; }
    size_t code_bytes() const { return 8 * static_cast<size_t>(bits); }  // of one group and book
    size_t panel_bytes() const { return pairs() * code_bytes(); }
    size_t panels() const { return (rows + kLanes - 1) / kLanes; }
    size_t segments() const { return (static_cast<size_t>(width) + kSegment - 1) / kSegment; }
    // Groups whose tables share a scale and fit the first-level cache together: at most 64 tables of 256 entries, 128 of 16,
    // and kSegments segments of inputs.
    size_t block() const {
        return std::max<size_t>(1, std::min((bits == 8 ? 64 : 128) / static_cast<size_t>(books), kSegments / segments()));
    }
    size_t blocks() const { return (groups + block() - 1) / block(); }
    size_t tables(size_t at) const { return (std::min((at + 1) * block(), groups) - at * block()) * static_cast<size_t>(books); }
    // Blocks whose tables are made before any of them is looked up: those of 16 entries are small, and the longer a panel is read
    // in one go, the better.
    size_t span() const { return bits == 8 ? 1 : 8; }
    const uint8_t* piece(size_t panel, size_t at) const {
        return codes + panel * panel_bytes() + at * block() * static_cast<size_t>(books) * code_bytes();
    }
};

// What a thread does of a product: some blocks of inputs of some panels.
struct Part {
    size_t first_block, last_block, first_panel, last_panel;
};

// Room for tables: of a span and one row of x in bytes, round((product − middle)/scale) + 128, and of a block in floats.
constexpr size_t kTableBytes = 64 * 256, kTableFloats = 64 * 256, kMostSpan = 8;

struct AdditiveKernels {
    // Partial sums (batch, panels, 64) of `batch` rows of x, in an order of rows that `finish` knows; tables: room for them.
    void (*sum_bytes)(const Additive&, const float* x, int batch, const Part&, uint8_t* tables, float* sums);
    void (*sum_exact)(const Additive&, const float* x, int batch, const Part&, float* tables, float* sums);
    // y (batch, rows) from the partial sums of `slices` slices of the inputs.
    void (*finish)(const Additive&, bool exact, int batch, size_t slices, const float* sums, float* y);
    void (*matvec_wide)(const Additive&, const float* x, size_t first, size_t last, float* y);
    // rows [first, last); stream: past the caches where that is possible
    void (*decode)(const Additive&, size_t first, size_t last, Value dtype, bool stream, uint8_t* out);
};

const AdditiveKernels* additive_generic();
const AdditiveKernels* additive_avx2();
const AdditiveKernels* additive_avx512();

}  // namespace qformat
