// What every instruction set offers, as a table of plain functions over checked arrays.
//
// The structs below are views: they own nothing. Python has checked every size against the extent's length before a
// pointer gets here, so the kernels neither check nor allocate. Work is split by panels of 16 rows and each panel is
// computed whole by one thread, so results do not depend on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qformat {

constexpr int kRows = 16;   // output rows of a panel: one dword of codes per row fills a 64-byte register
constexpr int kRun = 64;    // inputs whose planes lie next to each other, and the block of int8 activations

// How far ahead of their reading kernels ask for codes, in bytes; 0: not at all (ahead.cpp). What is next is kNext bytes on.
extern const size_t kAhead;
constexpr size_t kNext = 512;

enum class Value : int { none = 0, float16 = 1, bfloat16 = 2, float32 = 3, packed = 4, external = 5 };

// A matrix of codes in the panel layout (spec/codings/panel.md).
struct Panels {
    const uint8_t* codes;        // first panel
    size_t panel_bytes;          // every panel has the same length
    size_t rows, inputs;         // out_features, in_features
    size_t group;                // inputs that share a scale (the last group may be short)
    int bits;
    int header_bytes;            // scales, zeros and padding before the codes of a group
    int zeros_at;                // offset of the zeros in the header
    Value scales;                // how the 16 scales of a group are stored; external: in `scale_values`
    Value zeros;                 // the 16 zeros or offsets of a group; packed: integers of `zero_bits`
    int zero_bits;
    bool offsets;                // value = scale·code + offset instead of scale·(code − zero)
    float bias;                  // subtracted from the stored code (2^(bits−1) for signed codes)
    const float* scale_values;   // external: (panels, groups, 16)
    const float* zero_values;
    const float* table;          // lookup codings: 2^bits floats; nullptr for affine
};

// Activations as the kernels read them: every run of up to 64 inputs padded with zeros, the batch's rows side by side.
struct Activations {
    int batch;                   // 1, 4 or 8
    int rows;                    // of them the caller's; the others are zero
    size_t runs;
    int8_t* codes;               // int8: (runs, batch, 64)
    float* scales;               // int8: (runs, batch)
    float* sums;                 // int8: (runs, batch): Σ codes
    float* totals;               // int8, bfloat16: (groups, batch): Σ x, as they are rounded
    float* values;               // float32: (runs, batch, 64)
    uint16_t* pairs;             // bfloat16: (runs, batch, 64): inputs 0 2, 1 3 of every four
};

// A row-major matrix of floats.
struct Dense {
    const uint8_t* values;
    size_t rows, inputs;
    Value dtype;
};

enum class Mode : int { int8 = 0, float32 = 1, bfloat16 = 2 };

// y (batch, stride): panels [first, last) fill columns [16·first, 16·last) of every row.
using PanelKernel = void (*)(const Panels&, const Activations&, size_t first, size_t last, float* y, size_t stride);

struct Kernels {
    const char* name;
    // The kernel for a matrix and a batch of 1, 4 or 8; nullptr where this instruction set has none for the mode.
    PanelKernel (*matvec)(const Panels&, Mode, int batch);
    // rows [first, last) of y (batch, stride) from x (batch, inputs)
    void (*matvec_dense)(const Dense&, const float* x, int batch, size_t first, size_t last, float* y, size_t stride);
    // panels [first, last) decoded to `out`, row-major (rows, inputs); `stream`: with stores that pass the cache by
    void (*decode)(const Panels&, size_t first, size_t last, Value dtype, bool stream, void* out);
    // x (rows, inputs) of float16, bfloat16 or float32 made ready for a matrix with this group size
    void (*prepare)(const uint8_t* x, Value dtype, size_t inputs, size_t group, Mode, Activations&);
    // `count` floats of y, readable up to the next multiple of 16, rounded to `dtype`
    void (*narrow)(const float* y, size_t count, Value dtype, uint8_t* out);
};

const Kernels* generic_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

}  // namespace qformat
