// Rows of a checkpoint straight into panels: sixteen rows at a time are widened, coded and packed while they are in the
// cache. The result is that of the loops one after the other over the whole slab, which define it.
#pragma once

#include "flat.hpp"
#include "pack.hpp"

namespace QFORMAT_ISA {

QFORMAT_INLINE Floats read_chunk(const uint8_t* from, Source source) {
    if (source == Source::float32) return load((const float*)from);
    return widen_chunk((const uint16_t*)from, source == Source::float16);
}

// A row as float32; both[0] becomes at least its largest magnitude, both[1] at least that of each group below `limit`.
template <Source SOURCE>
QFORMAT_INLINE void read_row(const uint8_t* from, size_t columns, size_t group, float limit, float* row, float* both) {
    constexpr size_t SIZE = SOURCE == Source::float32 ? 4 : 2;
    for (size_t start = 0; start < columns; start += group) {
        const size_t end = columns - start < group ? columns : start + group;
        Ints most = no_ints();
        size_t at = start;
        for (; at + LANES <= end; at += LANES) {
            const Floats x = read_chunk(from + at * SIZE, SOURCE);
            store(row + at, x);
            most = larger(magnitude_bits(x), most);
        }
        if (at < end) {
            uint8_t some[4 * LANES] = {0};
            memcpy(some, from + at * SIZE, (end - at) * SIZE);
            const Floats x = read_chunk(some, SOURCE);
            memcpy(row + at, &x, (end - at) * sizeof(float));
            most = larger(magnitude_bits(x), most);
        }
        const float largest = finite_or_infinite(highest(most));
        if (largest > both[0]) both[0] = largest;
        if (largest < limit && largest > both[1]) both[1] = largest;
    }
}

QFORMAT_INLINE void read_row(const SlabJob& job, size_t row, float* to, float* both) {
    const size_t columns = job.group.columns, group = job.group.group;
    const uint8_t* from = job.from + row * columns * (job.source == Source::float32 ? 4 : 2);
    switch (job.source) {
        case Source::bfloat16: return read_row<Source::bfloat16>(from, columns, group, job.limit, to, both);
        case Source::float16: return read_row<Source::float16>(from, columns, group, job.limit, to, both);
        default: return read_row<Source::float32>(from, columns, group, job.limit, to, both);
    }
}

// Where the parts of sixteen rows lie in the scratch; `slab_floats` in loops.hpp says how long it is.
struct SlabScratch {
    float *loop, *row, *scales, *third;
    uint16_t* halves[2];
    uint8_t* codes;
};

QFORMAT_INLINE SlabScratch slab_scratch(const SlabJob& job, float* at) {
    const size_t columns = lanes_up(job.group.columns), numbers = ROWS * groups_of(job.group.columns, job.group.group);
    SlabScratch scratch;
    scratch.loop = at;
    scratch.row = at += scratch_floats(job.group.columns, job.group.group);
    scratch.scales = at += columns;
    scratch.third = at += numbers;
    at += numbers;
    scratch.halves[0] = (uint16_t*)at;
    scratch.halves[1] = scratch.halves[0] + numbers;
    scratch.codes = (uint8_t*)(at + numbers);
    return scratch;
}

// The arrays beside the codes as they are stored; false when a number is not finite.
QFORMAT_INLINE bool numbers_beside(const SlabJob& job, const SlabScratch& scratch, size_t count, Beside* beside) {
    for (int b = 0; b < job.besides; ++b) {
        const float* numbers = b ? scratch.third : scratch.scales;
        beside[b] = job.beside[b];
        beside[b].from = (const uint8_t*)numbers;
        if (beside[b].bits) continue;
        if (!(largest_of(numbers, count) < __builtin_inff())) return false;
        if (beside[b].size == 4) continue;
        narrow_halves(numbers, count, scratch.halves[b]);
        beside[b].from = (const uint8_t*)scratch.halves[b];
    }
    return true;
}

// Panels [first, last); false when a weight is beyond the ceiling or a number does not fit: then nothing counts.
static bool slab(const SlabJob& job, size_t first, size_t last, float* memory, float* both) {
    const SlabScratch scratch = slab_scratch(job, memory);
    const size_t columns = job.group.columns, groups = groups_of(columns, job.group.group);
    GroupJob group = job.group;
    group.weight = scratch.row;
    Beside beside[2];
    PanelJob panel = panels_of(job);
    const size_t bytes = panel_bytes(panel);
    panel.codes = scratch.codes;
    panel.beside = beside;
    for (size_t index = first; index < last; ++index) {
        const size_t top = index * ROWS, rows = job.rows - top < ROWS ? job.rows - top : ROWS;
        for (size_t r = 0; r < rows; ++r) {
            read_row(job, top + r, scratch.row, both);
            if (!(both[0] <= job.ceiling)) return false;
            group.codes = scratch.codes + r * panel.stride;
            group.scales = scratch.scales + r * groups;
            const bool bytes_beside = job.besides == 2 && job.beside[1].bits;
            group.third = bytes_beside ? (void*)((uint8_t*)scratch.third + r * groups) : (void*)(scratch.third + r * groups);
            group.errors = job.errors + 3 * (top + r);
            job.loop(group, 0, 1, scratch.loop);
        }
        if (!numbers_beside(job, scratch, rows * groups, beside)) return false;
        panel.rows = rows;
        panel.out = job.out + index * bytes;
        pack_panels(panel, 0, 1);
    }
    return true;
}

}  // namespace QFORMAT_ISA
