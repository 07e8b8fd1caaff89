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

    const uint8_t* bytes(int lane, int k) const { return (const uint8_t*)&rows[4 * lane + k]; }

    // What row 4·lane + k has in a table for inputs 32·part …, or 16·part …
    H32 lookup(const WordTable& table, int lane, int k, int part) const { return lookup_words<BITS>(table, bytes(lane, k) + 32 * part); }
    F32 lookup(const F32& table, int lane, int k, int part) const { return lut16(table, codes(lane, k, part)); }

    // Its codes for inputs 16·part …
    U32 codes(int lane, int k, int part) const { return widen(bytes(lane, k) + 16 * part); }
};

}  // namespace decode
