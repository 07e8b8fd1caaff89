// The codes of a run by rows, for AVX-512: columns are interleaved within 128-bit lanes only, so that a lane holds four
// columns of one row (rows k, k+4, k+8, k+12 in register k). A permute of dwords then spreads them over the quadwords of
// the result, and a multishift takes the field of every element out of its quadword.

namespace decode {

// For COUNT elements in a register, the first of them input `first` of a column: which columns their quadwords come from,
// and the bits at which their fields start, of a plane W wide whose lowest bit is bit AT of the code.
template <int W, int AT, int COUNT>
struct Picks {
    static constexpr int per_column = 32 / W;
    alignas(64) int32_t dwords[16] = {};
    alignas(64) int8_t bits[64] = {};

    constexpr explicit Picks(int first) {
        constexpr int size = 64 / COUNT;
        for (int i = 0; i < 16; i++) dwords[i] = (first + i / 2 * (8 / size)) / per_column;
        for (int e = 0; e < COUNT; e++) {
            const int input = (first + e) % per_column;
            bits[e * size] = (int8_t)((8 * (input % 4) + W * (input / 4) - AT + 64) % 64);
        }
    }
};

// One plane of a run. A register of a wider plane holds four columns, of a plane of one bit both for two rows.
template <int W>
struct PlaneRows {
    __m512i columns[2 * W];

    void load(const uint8_t* p, int count) {
        __m512i in[2 * W];
        for (int c = 0; c < 2 * W; c++) in[c] = c < count ? (__m512i)load_codes(p + 64 * c) : _mm512_setzero_si512();
        if (W == 1) {
            columns[0] = _mm512_unpacklo_epi32(in[0], in[1]);
            columns[1] = _mm512_unpackhi_epi32(in[0], in[1]);
            return;
        }
#pragma GCC unroll 4
        for (int c = 0; c < 2 * W; c += 4) {
            const __m512i low = _mm512_unpacklo_epi32(in[c], in[c + 1]), high = _mm512_unpackhi_epi32(in[c], in[c + 1]);
            const __m512i low2 = _mm512_unpacklo_epi32(in[c + 2], in[c + 3]), high2 = _mm512_unpackhi_epi32(in[c + 2], in[c + 3]);
            columns[c] = _mm512_unpacklo_epi64(low, low2);
            columns[c + 1] = _mm512_unpackhi_epi64(low, low2);
            columns[c + 2] = _mm512_unpacklo_epi64(high, high2);
            columns[c + 3] = _mm512_unpackhi_epi64(high, high2);
        }
    }

    // COUNT codes of row 4·lane + k from input COUNT·part on, each in the low bits of an element; what is above is not zero.
    template <int AT, int COUNT>
    __m512i take(int lane, int k, int part) const {
        using Its = Picks<W, AT, COUNT>;
        static constexpr Its picks[2] = {Its(0), Its(COUNT % Its::per_column)};
        const int column = COUNT * part * W / 32;
        const int from = W == 1 ? k / 2 : column / 4 * 4 + k, base = 4 * lane + (W == 1 ? 2 * (k % 2) + column : column % 4);
        const Its& its = picks[part % 2];
        const __m512i dwords = _mm512_add_epi32(_mm512_load_si512(its.dwords), _mm512_set1_epi32(base));
        return _mm512_multishift_epi64_epi8(_mm512_load_si512(its.bits), _mm512_permutexvar_epi32(dwords, columns[from]));
    }
};

template <int BITS>
struct Run {
    using Planes = panel::Planes<BITS>;
    PlaneRows<Planes::width[0]> first;
    PlaneRows<Planes::width[1] ? Planes::width[1] : 1> second;
    PlaneRows<Planes::width[2] ? Planes::width[2] : 1> third;

    void load(const uint8_t* p, int inputs) {
        const int columns = panel::columns_of(inputs, Planes::width[0]), columns2 = panel::columns_of(inputs, Planes::width[1]);
        first.load(p, columns);
        if (Planes::count > 1) second.load(p + 64 * columns, columns2);
        if (Planes::count > 2) third.load(p + 64 * (columns + columns2), panel::columns_of(inputs, Planes::width[2]));
    }

    template <int COUNT>
    __m512i take(int lane, int k, int part) const {
        [[maybe_unused]] constexpr int at2 = Planes::width[0], at3 = at2 + Planes::width[1];
        __m512i codes = first.template take<0, COUNT>(lane, k, part);
        // bits below `at` from what is there, the others from the next plane
        if constexpr (Planes::count > 1) {
            const __m512i next = second.template take<at2, COUNT>(lane, k, part), below = _mm512_set1_epi32(0x10001 * ((1 << at2) - 1));
            codes = _mm512_ternarylogic_epi32(below, codes, next, 0xCA);
        }
        if constexpr (Planes::count > 2) {
            const __m512i next = third.template take<at3, COUNT>(lane, k, part), below = _mm512_set1_epi32(0x10001 * ((1 << at3) - 1));
            codes = _mm512_ternarylogic_epi32(below, codes, next, 0xCA);
        }
        return codes;
    }

    // What row 4·lane + k has in a table for inputs 32·part …, or 16·part …; entries repeat with the period of a code.
    H32 lookup(const WordTable& table, int lane, int k, int part) const {
        return (H32)_mm512_permutexvar_epi16(take<32>(lane, k, part), (__m512i)table);
    }
    F32 lookup(const F32& table, int lane, int k, int part) const { return lut16(table, (U32)take<16>(lane, k, part)); }

    // Its codes for inputs 16·part …
    U32 codes(int lane, int k, int part) const {
        if (BITS < 8) return (U32)_mm512_and_si512(take<16>(lane, k, part), _mm512_set1_epi32((1 << BITS) - 1));
        const __m512i bytes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const __m512i from = _mm512_add_epi32(bytes, _mm512_set1_epi32(16 * lane));
        return (U32)_mm512_maskz_permutexvar_epi8(0x1111111111111111, from, first.columns[4 * part + k]);
    }
};

}  // namespace decode
