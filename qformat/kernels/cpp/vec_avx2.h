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

// (GCC 12 makes and converts a vector of sixteen lane by lane.)
static inline F32 splat(float v) { return join<F32>(_mm256_set1_ps(v), _mm256_set1_ps(v)); }
static inline U32 splat(uint32_t v) { return join<U32>(_mm256_set1_epi32((int)v), _mm256_set1_epi32((int)v)); }
static inline F32 to_float(I32 v) { return join<F32>(_mm256_cvtepi32_ps(part_i(v, 0)), _mm256_cvtepi32_ps(part_i(v, 1))); }
static inline F32 to_float(U32 v) { return to_float((I32)v); }

static inline F32 fma(F32 a, F32 b, F32 c) {
    return join<F32>(_mm256_fmadd_ps(part_f(a, 0), part_f(b, 0), part_f(c, 0)),
                     _mm256_fmadd_ps(part_f(a, 1), part_f(b, 1), part_f(c, 1)));
}

static constexpr bool kSeveralChains = true;
static constexpr bool kJoinsThree = false;

// vpmaddubsw saturates at 16 bits: 127·127·2 fits for codes below 128, so fields are shifted down before they are multiplied.
// Codes of 8 bits are centred first and their sign is moved to the activation (128·127·2 fits); finish_dot8 adds the centre
// back.
template <int W>
static inline __m256i dot4_half(__m256i acc, __m256i codes, __m256i x) {
    if (W == 8) {
        codes = _mm256_xor_si256(codes, _mm256_set1_epi8((char)0x80));
        x = _mm256_sign_epi8(x, codes);
        codes = _mm256_abs_epi8(codes);
    }
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1)));
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
static inline H16 to_halves(F32 v) {
    const __m128i low = _mm256_cvtps_ph(part_f(v, 0), _MM_FROUND_TO_NEAREST_INT), high = _mm256_cvtps_ph(part_f(v, 1), _MM_FROUND_TO_NEAREST_INT);
    return (H16)_mm256_set_m128i(high, low);
}
static inline H32 to_halves(F32 low, F32 high) { return join<H32>(to_halves(low), to_halves(high)); }

static inline __m256i bfloat_words(__m256 v) {
    const __m256i bits = _mm256_castps_si256(v), even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7FFF))), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
}
static inline H16 to_bfloats(F32 v) {
    return (H16)_mm256_permute4x64_epi64(_mm256_packus_epi32(bfloat_words(part_f(v, 0)), bfloat_words(part_f(v, 1))), 0xD8);
}
static inline H32 to_bfloats(F32 low, F32 high) { return join<H32>(to_bfloats(low), to_bfloats(high)); }
static inline void store_half(uint16_t* p, F32 v) { store_words(p, to_halves(v)); }
static inline void store_bfloat(uint16_t* p, F32 v) { store_words(p, to_bfloats(v)); }

// Non-temporal stores of a line, to an aligned place; `fence` before another thread may read.
static inline void stream_words(uint16_t* p, H32 v) {
    _mm256_stream_si256((__m256i*)p, part_i(v, 0));
    _mm256_stream_si256((__m256i*)(p + 16), part_i(v, 1));
}
static inline void stream_float(float* p, F32 v) {
    _mm256_stream_ps(p, part_f(v, 0));
    _mm256_stream_ps(p + 8, part_f(v, 1));
}
static inline void fence() { _mm_sfence(); }

// 32 words, looked up for 32 codes of a byte each: their low and high bytes apart, 16 entries a register.
struct WordTable {
    __m256i low[2], high[2];
};
static inline WordTable make_word_table(H32 words) {
    WordTable t;
    for (int half = 0; half < 2; half++) {
        const __m256i part = part_i(words, half);
        // in each half of it 8 low bytes, then their 8 high ones
        const __m256i bytes = _mm256_packus_epi16(_mm256_and_si256(part, _mm256_set1_epi16(0xFF)), _mm256_srli_epi16(part, 8));
        t.low[half] = _mm256_permute4x64_epi64(bytes, 0x88);
        t.high[half] = _mm256_permute4x64_epi64(bytes, 0xDD);
    }
    return t;
}
template <int BITS>
static inline H32 lookup_words(const WordTable& t, const uint8_t* codes) {
    // the middle quarters change places, so that unpacking within halves leaves the words in order
    const __m256i index = _mm256_permute4x64_epi64(_mm256_loadu_si256((const __m256i*)codes), 0xD8);
    __m256i low = _mm256_shuffle_epi8(t.low[0], index), high = _mm256_shuffle_epi8(t.high[0], index);
    if (BITS > 4) {
        const __m256i second = _mm256_slli_epi16(index, 3);  // bit 4 chooses
        low = _mm256_blendv_epi8(low, _mm256_shuffle_epi8(t.low[1], index), second);
        high = _mm256_blendv_epi8(high, _mm256_shuffle_epi8(t.high[1], index), second);
    }
    return join<H32>(_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high));
}
// A quarter of a transposition: eight rows of eight dwords, 64 bytes apart on both sides.
static inline void transpose8(const char* from, char* to) {
    __m256i r[8], t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_si256((const __m256i*)(from + 64 * i));
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_si256((__m256i*)(to + 64 * i), _mm256_permute2x128_si256(r[i], r[i + 4], 0x20));
        _mm256_storeu_si256((__m256i*)(to + 64 * (i + 4)), _mm256_permute2x128_si256(r[i], r[i + 4], 0x31));
    }
}
static inline void transpose(U32* rows) {
    alignas(32) char out[16 * 64];
    for (int from = 0; from < 2; from++)
        for (int to = 0; to < 2; to++) transpose8((const char*)(rows + 8 * from) + 32 * to, out + 64 * 8 * to + 32 * from);
    __builtin_memcpy(rows, out, sizeof out);
}
