// The vocabulary in plain C++: correct on every CPU; on ARM the compiler turns the lanes into NEON registers.
#define keep_loaded(v) ((void)0)
#include "vec_common.h"
#undef keep_loaded

static inline F32 splat(float v) { return v - F32{}; }  // (a sum would lose the sign of a zero)
static inline U32 splat(uint32_t v) { return U32{} + v; }
static inline F32 to_float(I32 v) { return __builtin_convertvector(v, F32); }
static inline F32 to_float(U32 v) { return to_float((I32)v); }

static inline F32 fma(F32 a, F32 b, F32 c) { return a * b + c; }

// Without vectors of the processor's own a chain of additions is not what sums wait for.
static constexpr bool kSeveralChains = false;
static constexpr bool kJoinsThree = false;

// acc + Σ of the four products of each lane's bytes: unsigned codes times signed activations.
template <int W>
static inline I32 dot4(I32 acc, U32 codes, const int8_t* at) {
    const U32 x = splat_dword(at);
    const U32 low = splat(0xFFu);
    for (int k = 0; k < 4; k++) acc += (I32)((codes >> (8 * k)) & low) * (((I32)(x << (24 - 8 * k))) >> 24);
    return acc;
}
// What dot4<8> leaves out, given the integer sum of the activations.
static inline I32 finish_dot8(I32 acc, I32) { return acc; }

static inline float half_to_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3FF;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7F800000u | (mantissa << 13);
    } else if (exponent) {
        bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else {
        const float subnormal = (float)mantissa * 0x1p-24f;  // exact
        return sign ? -subnormal : subnormal;
    }
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

static inline F32 load_half(const uint8_t* p) {
    F32 v;
    for (int lane = 0; lane < 16; lane++) {
        uint16_t h;
        __builtin_memcpy(&h, p + 2 * lane, 2);
        v[lane] = half_to_float(h);
    }
    return v;
}

static inline F32 load_bfloat(const uint8_t* p) {
    U32 v;
    for (int lane = 0; lane < 16; lane++) {
        uint16_t h;
        __builtin_memcpy(&h, p + 2 * lane, 2);
        v[lane] = (uint32_t)h << 16;
    }
    return (F32)v;
}

// Sixteen unsigned integers of `bits` bits, least significant bit first. Reads up to 6 bytes more: codes follow.
static inline F32 load_packed(const uint8_t* p, int bits) {
    F32 v;
    for (int half = 0; half < 2; half++) {
        uint64_t word = 0;
        __builtin_memcpy(&word, p + half * bits, 8);
        for (int lane = 0; lane < 8; lane++) v[8 * half + lane] = (float)((word >> (bits * lane)) & ((1u << bits) - 1));
    }
    return v;
}

// table[index & 15] in every lane
static inline F32 lut16(F32 table, U32 index) {
    F32 v;
    for (int lane = 0; lane < 16; lane++) v[lane] = table[index[lane] & 15];
    return v;
}

static inline F32 gather(const float* table, U32 index) {
    F32 v;
    for (int lane = 0; lane < 16; lane++) v[lane] = table[index[lane]];
    return v;
}

// A table of up to 256 bytes, looked up for the four bytes of every lane.
struct ByteTable {
    uint8_t entry[256];
};
static inline ByteTable make_byte_table(const uint8_t* entries) {
    ByteTable t;
    __builtin_memcpy(t.entry, entries, 256);
    return t;
}
template <int W>
static inline U32 lut_bytes(const ByteTable& t, U32 index) {
    U32 v;
    for (int lane = 0; lane < 16; lane++) {
        const uint32_t i = index[lane];
        v[lane] = (uint32_t)t.entry[i & 255] | (uint32_t)t.entry[(i >> 8) & 255] << 8 | (uint32_t)t.entry[(i >> 16) & 255] << 16 |
                  (uint32_t)t.entry[i >> 24] << 24;
    }
    return v;
}

// Sixteen bytes, one to a lane.
static inline U32 widen(const uint8_t* p) {
    U32 v;
    for (int lane = 0; lane < 16; lane++) v[lane] = p[lane];
    return v;
}

static inline uint16_t float_to_half(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);
    bits &= 0x7FFFFFFFu;
    if (bits > 0x7F800000u) return (uint16_t)(sign | 0x7E00 | ((bits >> 13) & 0x3FF));
    if (bits >= 0x47800000u) return (uint16_t)(sign | 0x7C00);  // 65536 and more
    if (bits < 0x38800000u) {                                   // below 2^-14: adding 0.5 rounds to multiples of 2^-24
        float magnitude;
        __builtin_memcpy(&magnitude, &bits, 4);
        magnitude += 0.5f;
        __builtin_memcpy(&bits, &magnitude, 4);
        return (uint16_t)(sign | (bits - 0x3F000000u));
    }
    return (uint16_t)(sign | ((bits - 0x38000000u + 0xFFF + ((bits >> 13) & 1)) >> 13));
}
static inline H16 to_halves(F32 v) {
    H16 words;
    for (int lane = 0; lane < 16; lane++) words[lane] = float_to_half(v[lane]);
    return words;
}
static inline H16 to_bfloats(F32 v) {
    H16 words;
    for (int lane = 0; lane < 16; lane++) words[lane] = to_bfloat(v[lane]);
    return words;
}
static inline H32 pair(H16 low, H16 high) {
    H32 words;
    __builtin_memcpy(&words, &low, 32);
    __builtin_memcpy((char*)&words + 32, &high, 32);
    return words;
}
static inline H32 to_halves(F32 low, F32 high) { return pair(to_halves(low), to_halves(high)); }
static inline H32 to_bfloats(F32 low, F32 high) { return pair(to_bfloats(low), to_bfloats(high)); }
static inline void store_half(uint16_t* p, F32 v) { store_words(p, to_halves(v)); }
static inline void store_bfloat(uint16_t* p, F32 v) { store_words(p, to_bfloats(v)); }

// Plain C++ has no stores that pass the cache by.
static inline void stream_words(uint16_t* p, H32 v) { store_words(p, v); }
static inline void stream_float(float* p, F32 v) { store_float(p, v); }
static inline void fence() {}

// 32 words, looked up for 32 codes of a byte each.
typedef H32 WordTable;
static inline WordTable make_word_table(H32 words) { return words; }
template <int BITS>
static inline H32 lookup_words(const WordTable& t, const uint8_t* codes) {
    H32 words;
    for (int i = 0; i < 32; i++) words[i] = t[codes[i]];
    return words;
}
static inline void transpose(U32* rows) {
    U32 out[16];
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 16; c++) out[c][r] = rows[r][c];
    __builtin_memcpy(rows, out, sizeof out);
}
