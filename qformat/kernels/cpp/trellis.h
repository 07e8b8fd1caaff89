// Trellises (spec/codings/trellis.md) for the kernels: windows of a bit stream, each one a state that a function makes weights of.
#pragma once

#include "strips.h"

namespace qformat {

constexpr size_t kSide = 16;               // rows and inputs of a tile
constexpr size_t kTile = kSide * kSide;    // its weights
constexpr int kStateBits = 16;
constexpr size_t kPlaces = 32;             // places along the steps that hold two rows of a tile

// The last three are no more than a table: at the state's lower bits, or at bits of its hash, which may also turn the first
// weight's sign.
enum class StateFunction : int { one_mad = 0, two_mad, three_inst, mcg, mul1, lut, quantlut, quantlut_sym };

struct Trellis {
    const uint8_t* codes;  // (tiles down, tiles across), 32·bits bytes each
    size_t across;
    int width;             // bits of a step
    int vector;            // weights of a step
    StateFunction function;
    const float* table;    // (2^table_bits, vector); what is computed has one as well, of all states
    int table_bits;
    // What lies at places 32·i …: two rows, and where among these places each of their inputs is.
    uint8_t rows[kTile / kPlaces][2];
    uint16_t within[2][kSide];

    // Of the sixteen steps that lie at these places, if each has two inputs, that of pair i of the first row, or i − 8 of the second.
    size_t step(size_t i) const { return within[i / (kSide / 2)][2 * (i % (kSide / 2))] / 2; }
    size_t tile_bytes() const { return kTile / static_cast<size_t>(vector) * static_cast<size_t>(width) / 8; }
};

void trellis_generic(const void*, const Rectangle&, float*, size_t);
void trellis_avx2(const void*, const Rectangle&, float*, size_t);
void trellis_avx512(const void*, const Rectangle&, float*, size_t);

}  // namespace qformat
