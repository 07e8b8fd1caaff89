// The codes of a run by rows: transposed as bytes, a row to sixteen lanes.

namespace decode {

template <int BITS>
struct Run {
    U32 rows[16];

    // The codes of up to 64 inputs from p on.
    void load(const uint8_t* p, int inputs) {
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

    const uint8_t* bytes(size_t r) const { return (const uint8_t*)&rows[r]; }

    // What row r has in a table for inputs 32·half …, or 16·quarter …
    H32 lookup(const WordTable& table, size_t r, int half) const { return lookup_words<BITS>(table, bytes(r) + 32 * half); }
    F32 lookup(const F32& table, size_t r, int quarter) const { return lut16(table, codes(r, quarter)); }

    // The codes of row r for inputs 16·quarter …
    U32 codes(size_t r, int quarter) const { return widen(bytes(r) + 16 * quarter); }
};

}  // namespace decode
