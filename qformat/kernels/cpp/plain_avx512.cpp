#include <immintrin.h>

#include "plain.h"

namespace qformat {
namespace plain_in_avx512 {
#include "vec_avx512.h"

#define QF_HAS_UNPACK64
template <int BITS>
constexpr size_t kReach = 8 * BITS;

// 64 codes as bytes: the bytes of every eight codes are brought into a quadword, of which one instruction takes the fields.
template <int BITS>
static inline void unpack64(const uint8_t* p, uint8_t* to) {
    alignas(64) static constexpr auto order = [] {
        struct { uint8_t byte[64]; } t{};
        for (int i = 0; i < 64; i++) t.byte[i] = (uint8_t)(i / 8 * BITS + i % 8 % BITS);
        return t;
    }();
    constexpr uint64_t fields = 0x0706050403020100ull * BITS;  // their first bits: 7·7 is the last
    const __m512i bytes = _mm512_maskz_loadu_epi8((1ull << 8 * BITS) - 1, p);
    const __m512i octets = _mm512_permutexvar_epi8(_mm512_load_si512(&order), bytes);
    const __m512i codes = _mm512_multishift_epi64_epi8(_mm512_set1_epi64((long long)fields), octets);
    _mm512_storeu_si512(to, _mm512_and_si512(codes, _mm512_set1_epi8((1 << BITS) - 1)));
}

#define QF_HAS_LARGE_TABLE
// Up to 256 entries, as four tables of their bytes.
struct LargeTable {
    __m512i bytes[4][4];

    void set(const float* entries, int count) {
        alignas(64) uint8_t planes[4][256] = {};
        for (int i = 0; i < count; i += 16) {
            const __m512i some = _mm512_loadu_si512(entries + i);
            for (int k = 0; k < 4; k++) _mm_store_si128((__m128i*)(planes[k] + i), _mm512_cvtepi32_epi8(_mm512_srli_epi32(some, 8 * (unsigned)k)));
        }
        __builtin_memcpy(bytes, planes, sizeof bytes);
    }
    // 64 at a time, codes and floats.
    void look_up(const uint8_t* codes, size_t count, float* to) const {
        // bytes are joined within quarters of registers: what the quarters of the first one get are the first 16 codes
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        for (size_t i = 0; i < count; i += 64) {
            const __m512i index = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(codes + i));
            const __mmask64 upper = _mm512_movepi8_mask(index);
            __m512i b[4];
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++)
                b[k] = _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(bytes[k][0], index, bytes[k][1]),
                                              _mm512_permutex2var_epi8(bytes[k][2], index, bytes[k][3]));
            const __m512i low[2] = {_mm512_unpacklo_epi8(b[0], b[1]), _mm512_unpackhi_epi8(b[0], b[1])};
            const __m512i high[2] = {_mm512_unpacklo_epi8(b[2], b[3]), _mm512_unpackhi_epi8(b[2], b[3])};
#pragma GCC unroll 2
            for (int k = 0; k < 2; k++) {
                _mm512_storeu_si512(to + i + 32 * k, _mm512_unpacklo_epi16(low[k], high[k]));
                _mm512_storeu_si512(to + i + 32 * k + 16, _mm512_unpackhi_epi16(low[k], high[k]));
            }
        }
    }
};

#define QF_HAS_PICKED
// Of up to 32·PAIRS numbers, in as many pairs of registers: those that `count` indices say.
template <int PAIRS>
static inline void pick(const float* numbers, size_t size, const uint32_t* groups, size_t count, float* to) {
    __m512 table[2 * PAIRS];
    for (size_t i = 0; i < 2 * PAIRS; i++) {
        const size_t here = size < 16 * i ? 0 : std::min<size_t>(16, size - 16 * i);
        table[i] = _mm512_maskz_loadu_ps((__mmask16)((1u << here) - 1), numbers + 16 * i);
    }
    for (size_t i = 0; i < count; i += 16) {
        const __mmask16 some = (__mmask16)(count - i < 16 ? (1u << (count - i)) - 1 : 0xFFFF);
        const __m512i index = _mm512_maskz_loadu_epi32(some, groups + i);
        __m512 found[PAIRS];
#pragma GCC unroll 4
        for (int k = 0; k < PAIRS; k++) found[k] = _mm512_permutex2var_ps(table[2 * k], index, table[2 * k + 1]);
#pragma GCC unroll 4
        for (int step = 1; step < PAIRS; step *= 2) {
            const __mmask16 upper = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32 * step));
            for (int k = 0; k < PAIRS; k += 2 * step) found[k] = _mm512_mask_blend_ps(upper, found[k], found[k + step]);
        }
        _mm512_mask_storeu_ps(to + i, some, found[0]);
    }
}

// The numbers of `count` columns, whose groups are below `size`, in `room`.
static inline const float* picked(const float* numbers, size_t size, const uint32_t* groups, size_t count, float* room) {
    if (size <= 32) {
        pick<1>(numbers, size, groups, count, room);
    } else if (size <= 128) {
        pick<4>(numbers, size, groups, count, room);
    } else {
        for (size_t i = 0; i < count; i++) room[i] = numbers[groups[i]];
    }
    return room;
}

#include "plain-inl.h"
}  // namespace plain_in_avx512

void plain_avx512(const void* coded, const Rectangle& r, float* out, size_t stride) { plain_in_avx512::decode(coded, r, out, stride); }
void sums_avx512(const void* coded, const Rectangle& r, float* out, size_t stride) { plain_in_avx512::decode_sums(coded, r, out, stride); }

}  // namespace qformat
