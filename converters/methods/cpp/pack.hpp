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

// One plane of one row of a run: column c of dwords goes to out + 64·c bytes. `codes` are RUN bytes, zero beyond the run.
template <int WIDTH>
QFORMAT_INLINE void pack_plane(const uint8_t* codes, int low, size_t dwords, uint8_t* out) {
    constexpr int FIELDS = 8 / WIDTH;
    constexpr uint32_t MASK = 0x01010101u * ((1u << WIDTH) - 1u);
    for (size_t c = 0; c < dwords; ++c) {
        uint32_t word = 0;
#pragma GCC unroll 8
        for (int field = 0; field < FIELDS; ++field) {
            uint32_t four;
            memcpy(&four, codes + (c * FIELDS + field) * 4, 4);
            word |= ((four >> low) & MASK) << (field * WIDTH);
        }
        memcpy(out + c * 4 * ROWS, &word, 4);
    }
}

QFORMAT_INLINE void pack_run(const uint8_t* codes, size_t length, int bits, uint8_t flip, uint8_t* out) {
    uint8_t run[RUN];
    uint32_t flips = 0x01010101u * flip;
    memset(run, 0, sizeof run);
    memcpy(run, codes, length);
    for (size_t i = 0; i < RUN; i += 4) {
        uint32_t four;
        memcpy(&four, run + i, 4);
        four ^= flips;
        memcpy(run + i, &four, 4);
    }
    for (size_t i = length; i < RUN; ++i) run[i] = 0;
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

static void pack_panels(const PanelJob& job, size_t first, size_t last) {
    const size_t groups = (job.columns + job.group - 1) / job.group;
    const uint8_t flip = job.is_signed ? (uint8_t)(1u << (job.bits - 1)) : 0;
    size_t header = 0;
    for (int b = 0; b < job.besides; ++b) header += job.beside[b].bits ? 2 * job.beside[b].bits : ROWS * job.beside[b].size;
    auto group_bytes = [&](size_t length) {
        return header + length / RUN * run_bytes(RUN, job.bits) + (length % RUN ? run_bytes(length % RUN, job.bits) : 0);
    };
    const size_t rest = job.columns % job.group;
    const size_t panel_bytes = job.columns / job.group * group_bytes(job.group) + (rest ? group_bytes(rest) : 0);
    for (size_t panel = first; panel < last; ++panel) {
        uint8_t* out = job.out + panel * panel_bytes;
        const size_t top = panel * ROWS, rows = job.rows - top < ROWS ? job.rows - top : ROWS;
        if (rows < ROWS) memset(out, 0, panel_bytes);  // a full panel has no byte that is not written
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
                    for (size_t r = 0; r < rows; ++r)
                        memcpy(out + r * beside.size, beside.from + ((top + r) * groups + group) * beside.size, beside.size);
                    out += ROWS * beside.size;
                }
            }
            const size_t left = group * job.group;
            const size_t length = job.columns - left < job.group ? job.columns - left : job.group;
            for (size_t start = 0; start < length; start += RUN) {
                const size_t run = length - start < RUN ? length - start : RUN;
                for (size_t r = 0; r < rows; ++r)
                    pack_run(job.codes + (top + r) * job.columns + left + start, run, job.bits, flip, out + 4 * r);
                out += run_bytes(run, job.bits);
            }
        }
    }
}

}  // namespace QFORMAT_ISA
