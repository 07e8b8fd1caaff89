#include <immintrin.h>

#include "additive.h"

namespace qformat {
namespace additive_in_avx512 {
#include "vec_avx512.h"

// acc + the two products of each lane's signed words.
static inline I32 dot2(I32 acc, U32 a, U32 b) { return (I32)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b); }
// Of each word the upper byte: by a product, because shuffles keep the shifters busy.
static inline U32 upper_bytes(U32 bytes) { return (U32)_mm512_maddubs_epi16((__m512i)bytes, _mm512_set1_epi16(0x0100)); }

// (words − middles) · factors / 2¹⁵, rounded, + 128: words of 16 bits of which the low byte is all.
static inline U32 quantize(U32 words, U32 middles, U32 factors) {
    const __m512i scaled = _mm512_mulhrs_epi16(_mm512_sub_epi16((__m512i)words, (__m512i)middles), (__m512i)factors);
    return (U32)_mm512_add_epi16(scaled, _mm512_set1_epi16(128));
}

// The low bytes of the first words of every lane, then those of the second ones, of each register.
static inline void store_low_bytes(uint8_t* p, U32 first, U32 second) {
    const __m512i order = _mm512_setr_epi32(0x0C080400, 0x1C181410, 0x2C282420, 0x3C383430, 0x0E0A0602, 0x1E1A1612, 0x2E2A2622, 0x3E3A3632,
                                            0x4C484440, 0x5C585450, 0x6C686460, 0x7C787470, 0x4E4A4642, 0x5E5A5652, 0x6E6A6662, 0x7E7A7672);
    _mm512_storeu_si512(p, _mm512_permutex2var_epi8((__m512i)first, order, (__m512i)second));
}

#define QF_HAS_BLOCK_OF_BYTES4
// Four tables of 16 bytes. Their codes are interleaved first, so that a lane has those of one row: then one shuffle
// looks up all four and one dot product adds them up.
struct FourSums {
    __m512i of[4];  // even rows, and odd ones, of the lower and the upper nibbles
};

// By value: sums whose address is taken would be stored in every step.
__attribute__((always_inline)) static inline FourSums four_tables(FourSums sums, __m512i first, __m512i second, __m512i entries) {
    const __m512i nibble = _mm512_set1_epi8(15), ones = _mm512_set1_epi8(1), which = _mm512_set1_epi32(0x30201000);
    const __m512i rows = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i even = _mm512_add_epi8(_mm512_mullo_epi32(rows, _mm512_set1_epi32(0x01010101)), _mm512_set1_epi32(0x60402000));
    const __m512i evens = _mm512_permutex2var_epi8(first, even, second);
    const __m512i odds = _mm512_permutex2var_epi8(first, _mm512_add_epi8(even, ones), second);
    const auto looked_up = [&](__m512i sum, __m512i codes) {
        const __m512i index = _mm512_ternarylogic_epi32(codes, nibble, which, 0xEA);  // codes & nibble | which
        return _mm512_dpbusd_epi32(sum, _mm512_permutexvar_epi8(index, entries), ones);
    };
    return {{looked_up(sums.of[0], evens), looked_up(sums.of[1], _mm512_srli_epi16(evens, 4)), looked_up(sums.of[2], odds),
             looked_up(sums.of[3], _mm512_srli_epi16(odds, 4))}};
}

template <class Ahead>
static inline void block_of_bytes4(const uint8_t* p, const uint8_t* table, int count, Ahead& ahead, size_t share, I32* sums) {
    FourSums sum = {};
    const auto four = [&](int at) {
        const __m512i first = (__m512i)load_codes(p + 32 * at), second = (__m512i)load_codes(p + 32 * at + 64);
        sum = four_tables(sum, first, second, _mm512_loadu_si512(table + 16 * at));
    };
    int t = 0;
    for (; t + 16 <= count; t += 16) {
        ahead.due(8 * share);  // once for eight lines: it costs as much as a look-up
#pragma GCC unroll 4
        for (int i = 0; i < 16; i += 4) four(t + i);
    }
    if (t < count) ahead.due(8 * share);
    for (; t + 4 <= count; t += 4) four(t);
    if (t < count) {
        const __mmask16 first = (__mmask16)(0xFFFF >> 8 * (t + 2 > count)), second = (__mmask16)(t + 2 < count ? 0x00FF : 0);
        sum = four_tables(sum, _mm512_maskz_loadu_epi32(first, p + 32 * t), _mm512_maskz_loadu_epi32(second, p + 32 * t + 64),
                          _mm512_loadu_si512(table + 16 * t));
    }
    for (int q = 0; q < 4; q++) sums[q] = (I32)sum.of[q];
}

#include "additive-inl.h"

static const AdditiveKernels table = {sum_bytes, sum_exact, finish, matvec_wide, decode};
}  // namespace additive_in_avx512

const AdditiveKernels* additive_avx512() { return &additive_in_avx512::table; }

}  // namespace qformat
