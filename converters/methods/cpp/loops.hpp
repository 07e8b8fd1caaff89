// What the Python side can ask for: jobs, and the table of loops that each instruction set fills.
#pragma once

#include <cstddef>
#include <cstdint>

// Rows of weights in groups, and the arrays that take the result.
struct GroupJob {
    const float* weight;  // (rows, columns)
    size_t columns, group;
    int bits;
    bool half, symmetric;  // scales are stored as float16; no zero or offset
    double lp, beta, kappa;
    int iterations;
    uint8_t* codes;  // (rows, columns)
    float* scales;   // (rows, groups)
    void* third;     // zeros (uint8 or float) or offsets (float), (rows, groups)
    double* errors;  // (rows, 3)
};

// Flat blocks coded by the nearest entry of a table of sixteen (NF4, FP4).
struct LookupJob {
    const float* weight;  // flat
    size_t size, block;
    const float* bounds;    // 15: midpoints of the sorted table
    const float* sorted;    // 16: the sorted table
    const uint8_t* order;   // 16: codes of the sorted entries
    uint8_t* codes;         // flat
    float* scales;          // one per block
};

// Rows scaled by their largest magnitude (EETQ, LLM.int8).
struct RowJob {
    const float* weight;
    size_t columns;
    bool eetq, half;
    uint8_t* codes;
    float* scales;
    double* errors;
};

// Codes (and what lies beside them) into panels.
struct Beside {
    const uint8_t* from;  // (rows, groups), items of `size` bytes, or codes of `bits` bits
    int size, bits;       // bits = 0: raw numbers
    uint8_t flip;         // xor with this: the bias of signed codes
};
struct PanelJob {
    const uint8_t* codes;  // (rows, columns)
    size_t rows, columns, group;
    int bits;
    bool is_signed;
    const Beside* beside;
    int besides;
    uint8_t* out;
};

struct Loops {
    const char* name;
    void (*rtn_symmetric)(const GroupJob&, size_t first, size_t last, float* scratch);
    void (*rtn_asymmetric)(const GroupJob&, size_t first, size_t last, float* scratch);
    void (*ls)(const GroupJob&, size_t first, size_t last, float* scratch);
    void (*hqq)(const GroupJob&, size_t first, size_t last, float* scratch);
    void (*lookup)(const LookupJob&, size_t first, size_t last);  // blocks
    void (*rows)(const RowJob&, size_t first, size_t last, float* scratch);
    float (*largest)(const float* weight, size_t size);
    void (*extremes)(const float* weight, size_t columns, size_t group, float limit, size_t first, size_t last,
                     float* both);
    void (*measure_lookup)(const LookupJob&, size_t columns, size_t first, size_t last, double* errors);
    void (*measure)(const float* weight, const float* decoded, size_t columns, size_t first, size_t last,
                    double* errors);
    void (*widen)(const uint16_t* from, size_t size, bool half, float* to);
    void (*halves)(const float* from, size_t size, uint16_t* to);
    void (*pack_panels)(const PanelJob&, size_t first, size_t last);  // panels
    void (*pack_stream)(const uint8_t* codes, size_t count, int bits, uint8_t flip, uint8_t* out);
};
