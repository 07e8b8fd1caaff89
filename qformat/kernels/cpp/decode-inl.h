// Panels to a row-major matrix. The codes are transposed while they are still packed bytes; a group's values for codes
// of up to 4 bits are a table of 16 made once, so that each weight costs a lookup and a store.

namespace decode {

// The codes of up to 64 inputs, in order, of each of the 16 rows.
template <int BITS>
static inline void unpack_run(const uint8_t* p, int inputs, U32* rows) {
    const int quads = (inputs + 3) / 4;
    int at = 0;
    for (int q = 0; q < 16; q++) rows[q] = U32{};
    for (int plane = 0; plane < panel::Planes<BITS>::count; plane++) {
        const int w = panel::Planes<BITS>::width[plane], fields = 8 / w;
        const U32 mask = splat(w == 8 ? 0xFFFFFFFFu : 0x01010101u * ((1u << w) - 1));
        for (int q = 0; q < quads; q++) rows[q] |= ((load_codes(p + 64 * (q / fields)) >> (w * (q % fields))) & mask) << at;
        p += 64 * panel::columns_of(inputs, w);
        at += w;
    }
    transpose(rows);
}

struct Row {
    F32 small;    // values of codes 0 … 15
    float scale, shift, bias;
    bool offsets;
    const float* table;
};

template <int BITS, bool TABLE>
static inline F32 values_of(const Row& row, U32 codes) {
    if (BITS <= 4) return lut16(row.small, codes);
    if (TABLE) return gather(row.table, codes) * splat(row.scale);
    const F32 code = to_float(codes) - splat(row.bias);
    return row.offsets ? splat(row.scale) * code + splat(row.shift) : splat(row.scale) * (code - splat(row.shift));
}

static inline void store(Value dtype, void* out, size_t at, F32 v) {
    if (dtype == Value::float32) {
        store_float((float*)out + at, v);
    } else if (dtype == Value::bfloat16) {
        store_bfloat((uint16_t*)out + at, v);
    } else {
        store_half((uint16_t*)out + at, v);
    }
}

template <int BITS, bool TABLE>
static void panels(const Panels& m, size_t first, size_t last, Value dtype, void* out, size_t first_row) {
    const size_t groups = (m.inputs + m.group - 1) / m.group, size = dtype == Value::float32 ? 4 : 2;
    for (size_t panel = first; panel < last; panel++) {
        const uint8_t* p = m.codes + panel * m.panel_bytes;
        const size_t rows = m.rows - kRows * panel < kRows ? m.rows - kRows * panel : kRows;
        for (size_t g = 0; g < groups; g++) {
            const panel::Header h = panel::read_header(m, p, panel * groups + g);
            Row row[kRows];
            for (size_t r = 0; r < rows; r++) {
                row[r] = Row{F32{}, h.scale[r], h.shift[r], m.bias, m.offsets, m.table};
                if (BITS <= 4) {
                    for (int code = 0; code < (1 << BITS); code++) {
                        const float c = TABLE ? m.table[code] : (float)code - m.bias;
                        row[r].small[code] = TABLE ? c * h.scale[r] : m.offsets ? h.scale[r] * c + h.shift[r] : h.scale[r] * (c - h.shift[r]);
                    }
                }
            }
            p += m.header_bytes;
            const size_t end = g + 1 < groups ? (g + 1) * m.group : m.inputs;
            for (size_t start = g * m.group; start < end; start += kRun) {
                const int inputs = end - start < kRun ? (int)(end - start) : kRun;
                U32 codes[16];
                unpack_run<BITS>(p, inputs, codes);
                for (size_t r = 0; r < rows; r++) {
                    const uint8_t* ordered = (const uint8_t*)&codes[r];
                    const size_t at = (kRows * panel + r - first_row) * m.inputs + start;
                    int i = 0;
                    for (; i + 16 <= inputs; i += 16) store(dtype, out, at + (size_t)i, values_of<BITS, TABLE>(row[r], widen(ordered + i)));
                    if (i < inputs) {
                        float rest[16];
                        store(dtype, rest, 0, values_of<BITS, TABLE>(row[r], widen(ordered + i)));
                        __builtin_memcpy((char*)out + size * (at + (size_t)i), rest, size * (size_t)(inputs - i));
                    }
                }
                p += panel::run_bytes<BITS>(inputs);
            }
        }
    }
}

}  // namespace decode
