// The vocabulary for AVX2 + FMA + F16C: every register of sixteen lanes is two of eight.
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile this file with -mavx2 -mfma -mf16c"
#endif
#include <immintrin.h>

#define keep_loaded(v) ((void)0)  // two registers of eight: there are too few to hold all
#include "vec_common.h"
#undef keep_loaded

template <class To, class From>
static inline To join(From low, From high) {
    To v;
    __builtin_memcpy(&v, &low, 32);
    __builtin_memcpy((char*)&v + 32, &high, 32);
    return v;
}
template <class V>
static inline __m256i part_i(const V& v, int half) {
    __m256i r;
    __builtin_memcpy(&r, (const char*)&v + 32 * half, 32);
    return r;
}
template <class V>
static inline __m256 part_f(const V& v, int half) {
    __m256 r;
    __builtin_memcpy(&r, (const char*)&v + 32 * half, 32);
    return r;
}

static inline F32 fma(F32 a, F32 b, F32 c) {
    return join<F32>(_mm256_fmadd_ps(part_f(a, 0), part_f(b, 0), part_f(c, 0)),
                     _mm256_fmadd_ps(part_f(a, 1), part_f(b, 1), part_f(c, 1)));
}

// Fields above the lowest would saturate the 16-bit sums of vpmaddubsw: they are shifted down first.
static constexpr bool kMaskInPlace = false;
// vpmaddubsw saturates at 16 bits: 127·127·2 fits for codes below 128. Codes of 8 bits are centred first and their
// sign is moved to the activation (128·127·2 fits); finish_dot8 adds the centre back.
template <int W>
static inline __m256i dot4_half(__m256i acc, __m256i codes, __m256i x) {
    if (W == 8) {
        codes = _mm256_xor_si256(codes, _mm256_set1_epi8((char)0x80));
        x = _mm256_sign_epi8(x, codes);
        codes = _mm256_abs_epi8(codes);
    }
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1)));
}
template <int W>
static inline I32 dot4(I32 acc, U32 codes, U32 x) {
    return join<I32>(dot4_half<W>(part_i(acc, 0), part_i(codes, 0), part_i(x, 0)),
                     dot4_half<W>(part_i(acc, 1), part_i(codes, 1), part_i(x, 1)));
}
static inline I32 finish_dot8(I32 acc, I32 sum) { return acc + 128 * sum; }

static inline F32 load_half(const uint8_t* p) {
    return join<F32>(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 16))));
}
static inline F32 load_bfloat(const uint8_t* p) {
    return join<F32>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16),
                     _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(p + 16))), 16));
}
static inline __m256 load_packed_half(const uint8_t* p, int bits) {
    uint64_t word = 0;
    __builtin_memcpy(&word, p, 8);
    const __m256i all = _mm256_set1_epi64x((long long)word), mask = _mm256_set1_epi64x((1 << bits) - 1);
    const __m256i low = _mm256_and_si256(_mm256_srlv_epi64(all, _mm256_setr_epi64x(0, bits, 2 * bits, 3 * bits)), mask);
    const __m256i high = _mm256_and_si256(_mm256_srlv_epi64(all, _mm256_setr_epi64x(4 * bits, 5 * bits, 6 * bits, 7 * bits)), mask);
    const __m256 even = _mm256_shuffle_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high), 0x88);
    return _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(_mm256_castps_si256(even), 0xD8));
}
static inline F32 load_packed(const uint8_t* p, int bits) { return join<F32>(load_packed_half(p, bits), load_packed_half(p + bits, bits)); }

static inline __m256 lut16_half(__m256 low, __m256 high, __m256i index) {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index),
                            _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
static inline F32 lut16(F32 table, U32 index) {
    return join<F32>(lut16_half(part_f(table, 0), part_f(table, 1), part_i(index, 0)),
                     lut16_half(part_f(table, 0), part_f(table, 1), part_i(index, 1)));
}
static inline F32 gather(const float* table, U32 index) {
    return join<F32>(_mm256_i32gather_ps(table, part_i(index, 0), 4), _mm256_i32gather_ps(table, part_i(index, 1), 4));
}

// A table of up to 256 bytes, looked up for the four bytes of every lane: one shuffle for each 16 entries.
struct ByteTable {
    __m256i part[16];
};
static inline ByteTable make_byte_table(const uint8_t* entries) {
    ByteTable t;
    for (int i = 0; i < 16; i++) t.part[i] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)(entries + 16 * i)));
    return t;
}
template <int W>
static inline __m256i lut_half(const ByteTable& t, __m256i index) {
    if (W <= 4) return _mm256_shuffle_epi8(t.part[0], index);
    // A shuffle yields zero where the top bit is set: adding 0x70 to (index − 16·part) with saturation sets it outside of the part.
    __m256i v = _mm256_setzero_si256();
    for (int i = 0; i < 16; i++) {
        const __m256i inside = _mm256_xor_si256(index, _mm256_set1_epi8((char)(16 * i)));
        v = _mm256_or_si256(v, _mm256_shuffle_epi8(t.part[i], _mm256_adds_epu8(inside, _mm256_set1_epi8(0x70))));
    }
    return v;
}
template <int W>
static inline U32 lut_bytes(const ByteTable& t, U32 index) {
    return join<U32>(lut_half<W>(t, part_i(index, 0)), lut_half<W>(t, part_i(index, 1)));
}

static inline U32 widen(const uint8_t* p) {
    return join<U32>(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)), _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8))));
}
static inline void store_half(uint16_t* p, F32 v) {
    for (int half = 0; half < 2; half++)
        _mm_storeu_si128((__m128i*)(p + 8 * half), _mm256_cvtps_ph(part_f(v, half), _MM_FROUND_TO_NEAREST_INT));
}
static inline void store_bfloat(uint16_t* p, F32 v) {
    for (int half = 0; half < 2; half++) {
        const __m256i bits = _mm256_castps_si256(part_f(v, half)), one = _mm256_set1_epi32(1);
        const __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
        const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7FFF))), 16);
        const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
        const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(part_f(v, half), part_f(v, half), _CMP_UNORD_Q));
        const __m256i words = _mm256_blendv_epi8(rounded, quiet, is_nan);
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0xD8);
        _mm_storeu_si128((__m128i*)(p + 8 * half), _mm256_castsi256_si128(packed));
    }
}
static inline void transpose8(__m256i* r) {
    __m256i t[8];
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        r[4 * i] = _mm256_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm256_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm256_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm256_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) t[i] = _mm256_permute2x128_si256(r[i], r[i + 4], 0x20);
    for (int i = 0; i < 4; i++) t[i + 4] = _mm256_permute2x128_si256(r[i], r[i + 4], 0x31);
    __builtin_memcpy(r, t, sizeof t);
}
static inline void transpose(U32* rows) {
    __m256i quarter[8];
    U32 out[16];
    for (int from = 0; from < 2; from++)
        for (int to = 0; to < 2; to++) {
            for (int i = 0; i < 8; i++) quarter[i] = part_i(rows[8 * from + i], to);
            transpose8(quarter);
            for (int i = 0; i < 8; i++) __builtin_memcpy((char*)&out[8 * to + i] + 32 * from, &quarter[i], 32);
        }
    __builtin_memcpy(rows, out, sizeof out);
}
