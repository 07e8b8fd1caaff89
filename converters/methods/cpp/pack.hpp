// Codes into panels and bit streams: see packing.py; the twins are qformat.codings.panel.pack and bits.pack_stream.
#pragma once

#include "lanes.hpp"
#include "loops.hpp"

namespace QFORMAT_ISA {

constexpr size_t ROWS = 16;
constexpr size_t RUN = 64;

struct Plane {
    int width, low;
};

// The planes of each width of codes: their widths, and the lowest bit that each holds.
QFORMAT_INLINE int planes_of(int bits, Plane* planes) {
    int count = 0, low = 0;
    for (int width = 8; width > 0; width /= 2)
        if (bits & width) {
            planes[count++] = {width, low};
            low += width;
        }
    return count;
}

typedef uint32_t Words4 __attribute__((vector_size(16)));

// Rows of dwords as columns: dword c of row r goes to out + 64·c + 4·r bytes.
QFORMAT_INLINE void columns_of(const uint32_t (*words)[ROWS], size_t dwords, uint8_t* out) {
    for (size_t left = 0; left < dwords; left += 4)
        for (size_t top = 0; top < ROWS; top += 4) {
            Words4 a, b, c, d;
            memcpy(&a, words[top] + left, 16);
            memcpy(&b, words[top + 1] + left, 16);
            memcpy(&c, words[top + 2] + left, 16);
            memcpy(&d, words[top + 3] + left, 16);
            const Words4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            const Words4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
            const Words4 turned[4] = {
                __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5), __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
                __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5), __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
            for (size_t i = 0; i < 4 && left + i < dwords; ++i)
                memcpy(out + 4 * ROWS * (left + i) + 4 * top, &turned[i], 16);
        }
}

// One plane of a run of all rows. Bytes that share a dword lie WIDTH bits apart: neighbours are joined in pairs.
template <int WIDTH>
QFORMAT_INLINE void pack_plane(const uint32_t (*run)[ROWS], int low, size_t dwords, uint8_t* out) {
    constexpr uint32_t MASK = 0x01010101u * ((1u << WIDTH) - 1u);
    uint32_t words[ROWS][ROWS];
    for (size_t r = 0; r < ROWS; ++r) {
        uint32_t fields[RUN / 4];
        for (size_t i = 0; i < RUN / 4; ++i) fields[i] = (run[r][i] >> low) & MASK;
        size_t count = RUN / 4;
#pragma GCC unroll 3
        for (int width = WIDTH; width < 8; width *= 2) {
            count /= 2;
            for (size_t i = 0; i < count; ++i) fields[i] = fields[2 * i] | fields[2 * i + 1] << width;
        }
        memcpy(words[r], fields, count * 4);
    }
    columns_of(words, dwords, out);
}

// A run of `length` codes of each row; rows are `stride` bytes apart, and those that are missing are zero.
QFORMAT_INLINE void pack_run(const uint8_t* codes, size_t stride, size_t rows, size_t length, int bits, uint8_t flip,
                             uint8_t* out) {
    uint32_t run[ROWS][RUN / 4];
    const uint32_t flips = 0x01010101u * flip;
    for (size_t r = 0; r < ROWS; ++r) {
        if (r < rows && length == RUN) {
            memcpy(run[r], codes + r * stride, RUN);
            for (size_t i = 0; i < RUN / 4; ++i) run[r][i] ^= flips;
            continue;
        }
        uint8_t bytes[RUN] = {0};
        if (r < rows)
            for (size_t i = 0; i < length; ++i) bytes[i] = codes[r * stride + i] ^ flip;
        memcpy(run[r], bytes, RUN);
    }
    Plane planes[3];
    const int count = planes_of(bits, planes);
    for (int p = 0; p < count; ++p) {
        const int width = planes[p].width;
        const size_t dwords = (length * width + 31) / 32;
        switch (width) {
            case 8: pack_plane<8>(run, planes[p].low, dwords, out); break;
            case 4: pack_plane<4>(run, planes[p].low, dwords, out); break;
            case 2: pack_plane<2>(run, planes[p].low, dwords, out); break;
            default: pack_plane<1>(run, planes[p].low, dwords, out);
        }
        out += dwords * 4 * ROWS;
    }
}

// The numbers of one group in each of up to sixteen rows, `groups` items apart.
template <int SIZE>
QFORMAT_INLINE void pack_numbers(const uint8_t* from, size_t groups, size_t rows, uint8_t* out) {
    for (size_t r = 0; r < rows; ++r) memcpy(out + r * SIZE, from + r * groups * SIZE, SIZE);
}

QFORMAT_INLINE size_t run_bytes(size_t length, int bits) {
    Plane planes[3];
    size_t bytes = 0;
    const int count = planes_of(bits, planes);
    for (int p = 0; p < count; ++p) bytes += (length * planes[p].width + 31) / 32 * 4 * ROWS;
    return bytes;
}

static void pack_stream(const uint8_t* codes, size_t count, int bits, uint8_t flip, uint8_t* out) {
    const uint64_t mask = (1u << bits) - 1u;
    for (size_t at = 0; at < count; at += 8, out += bits) {
        const size_t some = count - at < 8 ? count - at : 8;
        uint64_t word = 0;
        for (size_t i = 0; i < some; ++i) word |= ((uint64_t)(codes[at + i] ^ flip) & mask) << (i * bits);
        memcpy(out, &word, some == 8 ? (size_t)bits : (some * bits + 7) / 8);
    }
}

static size_t panel_bytes(const PanelJob& job) {
    size_t header = 0;
    for (int b = 0; b < job.besides; ++b) header += job.beside[b].bits ? 2 * job.beside[b].bits : ROWS * job.beside[b].size;
    auto group_bytes = [&](size_t length) {
        return header + length / RUN * run_bytes(RUN, job.bits) + (length % RUN ? run_bytes(length % RUN, job.bits) : 0);
    };
    const size_t rest = job.columns % job.group;
    return job.columns / job.group * group_bytes(job.group) + (rest ? group_bytes(rest) : 0);
}

static void pack_panels(const PanelJob& job, size_t first, size_t last) {
    const size_t groups = groups_of(job.columns, job.group), bytes = panel_bytes(job);
    const uint8_t flip = job.is_signed ? (uint8_t)(1u << (job.bits - 1)) : 0;
    for (size_t panel = first; panel < last; ++panel) {
        uint8_t* out = job.out + panel * bytes;
        const size_t top = panel * ROWS, rows = job.rows - top < ROWS ? job.rows - top : ROWS;
        if (rows < ROWS) memset(out, 0, bytes);  // a full panel has no byte that is not written
        for (size_t group = 0; group < groups; ++group) {
            for (int b = 0; b < job.besides; ++b) {
                const Beside& beside = job.beside[b];
                if (beside.bits) {
                    uint8_t codes[ROWS];
                    for (size_t r = 0; r < ROWS; ++r)
                        codes[r] = r < rows ? beside.from[(top + r) * groups + group] : beside.flip;
                    pack_stream(codes, ROWS, beside.bits, beside.flip, out);
                    out += 2 * beside.bits;
                } else {
                    const uint8_t* from = beside.from + (top * groups + group) * beside.size;
                    switch (beside.size) {
                        case 1: pack_numbers<1>(from, groups, rows, out); break;
                        case 2: pack_numbers<2>(from, groups, rows, out); break;
                        case 4: pack_numbers<4>(from, groups, rows, out); break;
                        default: pack_numbers<8>(from, groups, rows, out);
                    }
                    out += ROWS * beside.size;
                }
            }
            const size_t left = group * job.group;
            const size_t length = job.columns - left < job.group ? job.columns - left : job.group;
            for (size_t start = 0; start < length; start += RUN) {
                const size_t run = length - start < RUN ? length - start : RUN;
                pack_run(job.codes + top * job.stride + left + start, job.stride, rows, run, job.bits, flip, out);
                out += run_bytes(run, job.bits);
            }
        }
    }
}

}  // namespace QFORMAT_ISA
