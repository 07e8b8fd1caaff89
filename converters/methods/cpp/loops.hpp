// What the Python side can ask for: jobs, and the table of loops that each instruction set fills.
#pragma once

#include <cstddef>
#include <cstdint>

// Flat blocks coded by the nearest entry of a table of sixteen (NF4, FP4).
struct Table {
    const float* bounds;   // 15: midpoints of the sorted table
    const float* sorted;   // 16: the sorted table
    const uint8_t* order;  // 16: codes of the sorted entries
};

// Rows of weights in groups, and the arrays that take the result.
struct GroupJob {
    const float* weight;  // (rows, columns)
    size_t columns, group;
    int bits;
    bool half, symmetric;  // scales are stored as float16; no zero or offset
    double lp, beta, kappa;
    int iterations;
    Table table;     // of lookup codes
    uint8_t* codes;  // (rows, columns)
    float* scales;   // (rows, groups)
    void* third;     // zeros (uint8 or float) or offsets (float), (rows, groups)
    double* errors;  // (rows, 3)
};

typedef void (*GroupLoop)(const GroupJob&, size_t first, size_t last, float* scratch);  // rows

static inline size_t groups_of(size_t columns, size_t group) { return (columns + group - 1) / group; }
static inline size_t lanes_up(size_t count) { return (count + 15) / 16 * 16; }

// Floats that a group loop needs: a padded group, and four numbers a group.
static inline size_t scratch_floats(size_t columns, size_t group) {
    return lanes_up(group < columns ? group : columns) + 4 * lanes_up(groups_of(columns, group));
}

// Flat blocks that may cross rows.
struct LookupJob {
    const float* weight;  // flat
    size_t size, block;
    Table table;
    uint8_t* codes;  // flat
    float* scales;   // one per block
};

// Codes (and what lies beside them) into panels.
struct Beside {
    const uint8_t* from;  // (rows, groups), items of `size` bytes, or codes of `bits` bits
    int size, bits;       // bits = 0: raw numbers
    uint8_t flip;         // xor with this: the bias of signed codes
};
struct PanelJob {
    const uint8_t* codes;  // (rows, columns), rows `stride` bytes apart
    size_t rows, columns, stride, group;
    int bits;
    bool is_signed;
    const Beside* beside;
    int besides;
    uint8_t* out;
};

// Rows of a checkpoint straight into panels.
enum class Source { bfloat16, float16, float32 };
struct SlabJob {
    const uint8_t* from;  // (rows, columns) of the source's type
    Source source;
    size_t rows;
    GroupJob group;  // without its arrays
    GroupLoop loop;
    float limit;    // of `small`, see `extremes`
    float ceiling;  // weights beyond it are refused
    bool is_signed;
    int besides;     // arrays beside the codes: the scales, and perhaps the third
    Beside beside[2];  // without their arrays
    uint8_t* out;    // the panels
    double* errors;  // (rows, 3)
};

// Bytes from row to row of the codes of a panel: not a power of two, or all rows would meet in one set of the cache.
static inline size_t code_stride(size_t columns) { return columns + 64; }

static inline PanelJob panels_of(const SlabJob& job) {
    const GroupJob& group = job.group;
    const size_t stride = code_stride(group.columns);
    return {nullptr, job.rows, group.columns, stride, group.group, group.bits, job.is_signed, job.beside, job.besides, job.out};
}

// Floats that `slab` needs: those of its loop, a row, and of sixteen rows the numbers (twice, then as halves) and codes.
static inline size_t slab_floats(size_t columns, size_t group) {
    return scratch_floats(columns, group) + lanes_up(columns) + 3 * 16 * groups_of(columns, group) + 4 * code_stride(columns);
}

struct Loops {
    const char* name;
    GroupLoop rtn_symmetric, rtn_asymmetric, ls, hqq, lookup_rows, scaled_rows;
    void (*lookup)(const LookupJob&, size_t first, size_t last);  // blocks
    float (*largest)(const float* weight, size_t size);
    void (*extremes)(const float* weight, size_t columns, size_t group, float limit, size_t first, size_t last,
                     float* both);
    void (*measure_lookup)(const LookupJob&, size_t columns, size_t first, size_t last, double* errors);
    void (*measure)(const float* weight, const float* decoded, size_t columns, size_t first, size_t last,
                    double* errors);
    void (*widen)(const uint16_t* from, size_t size, bool half, float* to);
    uint16_t (*largest_bits)(const uint16_t* from, size_t size);
    void (*halves)(const float* from, size_t size, uint16_t* to);
    size_t (*panel_bytes)(const PanelJob&);
    void (*pack_panels)(const PanelJob&, size_t first, size_t last);  // panels
    void (*pack_stream)(const uint8_t* codes, size_t count, int bits, uint8_t flip, uint8_t* out);
    bool (*slab)(const SlabJob&, size_t first, size_t last, float* scratch, float* both);  // panels; false: refused
};
