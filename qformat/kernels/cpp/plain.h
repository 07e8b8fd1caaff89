// What every instruction set offers for affine, lookup and additive codes in the plain layout: decoding. Codes are one stream,
// least significant bit first, in which rows follow each other without a gap; any grouping is possible (spec/codings/groups.md).
#pragma once

#include "strips.h"

namespace qformat {

// Which number belongs to a weight. Rows count from the first one of a view.
enum class Spread : int {
    blocks = 0,  // number (first + row) / high, column / size of a matrix `across` wide
    flat = 1,    // number (first + row·inputs + column) / size
    comb = 2,    // number (first + row·inputs + column) mod size
    map = 3,     // number groups[column] of a row, which has `size`
};

struct Grouping {
    Spread spread;
    size_t size, high, across, first;
    const uint32_t* groups;  // map: below `size`
};

// scale·(start − minus) + plus, where `start` is the code less its bias, or its table entry. What a coding lacks is a number that
// changes nothing: a scale of 1, minus 0, plus −0.
struct Plain {
    const uint8_t* codes;
    size_t nbytes;  // of the codes, which are not read beyond
    size_t skip;    // codes before those of the first row, fewer than 8
    size_t inputs;
    int bits;
    float bias;
    const float* table;  // 2^bits entries; nullptr for affine codes
    size_t table_step;   // from a row's table to the next one's; 0: all have the same
    Grouping group;
    const float *scales, *minus, *plus;  // numbers of the groups; nullptr where the coding lacks them
    float offset;                        // what is added to every weight; where there is `plus`, nothing else is
};

constexpr size_t kMostBooks = 64, kMostWide = 4096;

// Additive codes: those of a block of block_rows × wide weights follow each other, one for each book.
struct Sums : Plain {
    size_t count, block_rows, wide;
    const float* books;  // (count, 2^bits, block_rows, wide), and 15 floats that may be read
};

void plain_generic(const void*, const Rectangle&, float*, size_t);
void sums_generic(const void*, const Rectangle&, float*, size_t);
void plain_avx2(const void*, const Rectangle&, float*, size_t);
void sums_avx2(const void*, const Rectangle&, float*, size_t);
void plain_avx512(const void*, const Rectangle&, float*, size_t);
void sums_avx512(const void*, const Rectangle&, float*, size_t);

}  // namespace qformat
