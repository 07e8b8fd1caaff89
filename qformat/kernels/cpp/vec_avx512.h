// The vocabulary for AVX-512 (F, BW, VL, DQ, VNNI, VBMI): one register is the sixteen lanes.
#if !defined(__AVX512F__) || !defined(__AVX512VNNI__) || !defined(__AVX512VBMI__)
#error "compile this file with -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vbmi"
#endif
#include <immintrin.h>

#define keep_loaded(v) asm("" : "+v"(v))
#include "vec_common.h"
#undef keep_loaded

static inline F32 splat(float v) { return (F32)_mm512_set1_ps(v); }
static inline U32 splat(uint32_t v) { return (U32)_mm512_set1_epi32((int)v); }
static inline F32 to_float(I32 v) { return (F32)_mm512_cvtepi32_ps((__m512i)v); }
static inline F32 to_float(U32 v) { return to_float((I32)v); }

static inline F32 fma(F32 a, F32 b, F32 c) { return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }

// vpdpbusd takes bytes up to 255, so that fields may be multiplied where they lie.
// acc += codes · the four bytes at `x`, in every lane. The broadcast is an operand: the compiler would make it an instruction.
template <int W>
static inline I32 dot4(I32 acc, U32 codes, const int8_t* x) {
    typedef uint32_t dword __attribute__((aligned(1), may_alias));
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(codes), "m"(*(const dword*)x));
    return acc;
}
static inline I32 finish_dot8(I32 acc, I32) { return acc; }

static constexpr bool kSeveralChains = true;

// Codes of 3 bits, two in every byte, at bits 0 and 4: of fields 0 and 2 of a column of the plane of 2 bits, or, if ODD, 1 and 3.
// `ones` are the column of the plane of 1 bit, whose fields for this column start at FROM. A product of bit matrices puts
// them above their two bits.
static constexpr bool kJoinsThree = true;
template <int ODD, int FROM>
static inline U32 join_three(U32 twos, U32 ones) {
    constexpr uint64_t at2 = 1ull << (FROM + ODD), at6 = 1ull << (FROM + ODD + 2);  // the sources of bits 2 and 6
    const __m512i placed = _mm512_gf2p8affine_epi64_epi8((__m512i)ones, _mm512_set1_epi64((long long)(at2 << 40 | at6 << 8)), 0);
    return (U32)_mm512_ternarylogic_epi32(_mm512_set1_epi32(0x33333333), (__m512i)(twos >> (2 * ODD)), placed, 0xEA);  // a & b | c
}

static inline F32 load_half(const uint8_t* p) { return (F32)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
static inline F32 load_bfloat(const uint8_t* p) {
    return (F32)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
}
static inline F32 load_packed(const uint8_t* p, int bits) {
    uint64_t low = 0, high = 0;
    __builtin_memcpy(&low, p, 8);
    __builtin_memcpy(&high, p + bits, 8);
    const __m512i shifts = _mm512_mullo_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(bits));
    const __m512i mask = _mm512_set1_epi64((1 << bits) - 1);
    const __m256i first = _mm512_cvtepi64_epi32(_mm512_and_epi64(_mm512_srlv_epi64(_mm512_set1_epi64((long long)low), shifts), mask));
    const __m256i second = _mm512_cvtepi64_epi32(_mm512_and_epi64(_mm512_srlv_epi64(_mm512_set1_epi64((long long)high), shifts), mask));
    return (F32)_mm512_cvtepi32_ps(_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1));
}

static inline F32 lut16(F32 table, U32 index) { return (F32)_mm512_permutexvar_ps((__m512i)index, (__m512)table); }
static inline F32 gather(const float* table, U32 index) { return (F32)_mm512_i32gather_ps((__m512i)index, table, 4); }

// A table of up to 256 bytes, looked up for the four bytes of every lane: up to 16 entries are one shuffle, 256 are two
// two-register permutes and a blend.
struct ByteTable {
    __m512i small, part[4];
};
static inline ByteTable make_byte_table(const uint8_t* entries) {
    ByteTable t;
    t.small = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)entries));
    for (int i = 0; i < 4; i++) t.part[i] = _mm512_loadu_si512(entries + 64 * i);
    return t;
}
template <int W>
static inline U32 lut_bytes(const ByteTable& t, U32 index) {
    const __m512i i = (__m512i)index;
    if (W <= 4) return (U32)_mm512_shuffle_epi8(t.small, i);
    const __m512i low = _mm512_permutex2var_epi8(t.part[0], i, t.part[1]), high = _mm512_permutex2var_epi8(t.part[2], i, t.part[3]);
    return (U32)_mm512_mask_blend_epi8(_mm512_movepi8_mask(i), low, high);
}

static inline U32 widen(const uint8_t* p) { return (U32)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
static inline H32 pair(H16 low, H16 high) {
    return (H32)_mm512_inserti64x4(_mm512_castsi256_si512((__m256i)low), (__m256i)high, 1);
}
static inline H16 to_halves(F32 v) { return (H16)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT); }
static inline H32 to_halves(F32 low, F32 high) { return pair(to_halves(low), to_halves(high)); }
static inline H16 to_bfloats(F32 v) {
    const __m512i bits = (__m512i)v, even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7FFF))), 16);
    const __mmask16 is_nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
    return (H16)_mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, is_nan, _mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40)));
}
static inline H32 to_bfloats(F32 low, F32 high) { return pair(to_bfloats(low), to_bfloats(high)); }

// Zeros and normal numbers only: the instruction takes subnormal ones for zeros. Written as assembly so that callers need
// no other target than the rest of this file; only where `rounds_normals` says so.
#define QF_ROUNDS_NORMALS
static inline bool rounds_normals() { return __builtin_cpu_supports("avx512bf16"); }
static inline H32 normals_to_bfloats(F32 low, F32 high) {
    H32 words;
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(words) : "v"(low), "v"(high));
    return words;
}
static inline bool all_lanes(I32 mask) { return _mm512_movepi32_mask((__m512i)mask) == 0xFFFF; }
static inline void store_half(uint16_t* p, F32 v) { store_words(p, to_halves(v)); }
static inline void store_bfloat(uint16_t* p, F32 v) { store_words(p, to_bfloats(v)); }

// Non-temporal stores of a line, to an aligned place; `fence` before another thread may read.
static inline void stream_words(uint16_t* p, H32 v) { _mm512_stream_si512((__m512i*)p, (__m512i)v); }
static inline void stream_float(float* p, F32 v) { _mm512_stream_ps(p, (__m512)v); }
static inline void fence() { _mm_sfence(); }

// 32 words, looked up by five bits.
typedef H32 WordTable;
static inline WordTable make_word_table(H32 words) { return words; }

static inline void transpose(U32* rows) {
    __m512i t[16], *r = (__m512i*)rows;
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    // r[4·i + k] holds column k, k+4, k+8, k+12 of rows 4i … 4i+3, one column a 128-bit lane
    for (int k = 0; k < 4; k++) {
        const __m512i low = _mm512_shuffle_i32x4(r[k], r[4 + k], 0x88), high = _mm512_shuffle_i32x4(r[8 + k], r[12 + k], 0x88);
        const __m512i low2 = _mm512_shuffle_i32x4(r[k], r[4 + k], 0xDD), high2 = _mm512_shuffle_i32x4(r[8 + k], r[12 + k], 0xDD);
        t[k] = _mm512_shuffle_i32x4(low, high, 0x88);
        t[k + 8] = _mm512_shuffle_i32x4(low, high, 0xDD);
        t[k + 4] = _mm512_shuffle_i32x4(low2, high2, 0x88);
        t[k + 12] = _mm512_shuffle_i32x4(low2, high2, 0xDD);
    }
    __builtin_memcpy(rows, t, sizeof t);
}
