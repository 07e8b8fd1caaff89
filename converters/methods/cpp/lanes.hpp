// Sixteen float lanes on every instruction set: the vocabulary of the loops.
//
// A value of sixteen lanes is one, two or four hardware vectors (NATIVE floats each). Operations work lane by lane and
// sums fold lanes in halves, so results do not depend on NATIVE. Compiled with -ffp-contract=off: nothing is fused.
// Everything is in the namespace of the instruction set (QFORMAT_ISA) and inline, and no std container is used, so that
// no symbol of a wider instruction set can be shared with a narrower one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define QFORMAT_NATIVE 16
#define QFORMAT_LOW 0, 1, 2, 3, 4, 5, 6, 7
#define QFORMAT_HIGH 8, 9, 10, 11, 12, 13, 14, 15
#elif defined(__AVX2__)
#define QFORMAT_NATIVE 8
#define QFORMAT_LOW 0, 1, 2, 3
#define QFORMAT_HIGH 4, 5, 6, 7
#else
#define QFORMAT_NATIVE 4
#define QFORMAT_LOW 0, 1
#define QFORMAT_HIGH 2, 3
#endif

#define QFORMAT_INLINE_MEMBER inline __attribute__((always_inline))
#define QFORMAT_INLINE static inline __attribute__((always_inline))

namespace QFORMAT_ISA {

constexpr int NATIVE = QFORMAT_NATIVE;
constexpr int LANES = 16;
constexpr int PARTS = LANES / NATIVE;
constexpr int DOUBLE_PARTS = 2 * PARTS;

typedef float FloatPart __attribute__((vector_size(4 * NATIVE)));
typedef int32_t IntPart __attribute__((vector_size(4 * NATIVE)));
typedef uint8_t BytePart __attribute__((vector_size(NATIVE)));
typedef double DoublePart __attribute__((vector_size(4 * NATIVE)));
typedef float HalfPart __attribute__((vector_size(2 * NATIVE)));

struct Floats {
    FloatPart part[PARTS];
};
struct Ints {
    IntPart part[PARTS];
};
struct Doubles {
    DoublePart part[DOUBLE_PARTS];
};

#define QFORMAT_EACH(n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); ++i)

QFORMAT_INLINE Floats splat(float value) {
    Floats out;
    QFORMAT_EACH(PARTS) out.part[i] = FloatPart{} + value;
    return out;
}

QFORMAT_INLINE Floats load(const float* from) {
    Floats out;  // part by part: one copy of all would go through the stack
    QFORMAT_EACH(PARTS) memcpy(&out.part[i], from + i * NATIVE, sizeof out.part[i]);
    return out;
}

QFORMAT_INLINE void store(float* to, Floats value) {
    QFORMAT_EACH(PARTS) memcpy(to + i * NATIVE, &value.part[i], sizeof value.part[i]);
}

QFORMAT_INLINE Floats operator+(Floats a, Floats b) {
    QFORMAT_EACH(PARTS) a.part[i] += b.part[i];
    return a;
}
QFORMAT_INLINE Floats operator-(Floats a, Floats b) {
    QFORMAT_EACH(PARTS) a.part[i] -= b.part[i];
    return a;
}
QFORMAT_INLINE Floats operator*(Floats a, Floats b) {
    QFORMAT_EACH(PARTS) a.part[i] *= b.part[i];
    return a;
}
QFORMAT_INLINE Floats operator/(Floats a, Floats b) {
    QFORMAT_EACH(PARTS) a.part[i] /= b.part[i];
    return a;
}
// a < b ? a : b and a > b ? a : b, which are what the instructions give; GCC does not always see that.
#if defined(__AVX512F__)
QFORMAT_INLINE Floats smaller(Floats a, Floats b) {
    QFORMAT_EACH(PARTS) a.part[i] = _mm512_min_ps(a.part[i], b.part[i]);
    return a;
}
QFORMAT_INLINE Floats larger(Floats a, Floats b) {
    QFORMAT_EACH(PARTS) a.part[i] = _mm512_max_ps(a.part[i], b.part[i]);
    return a;
}
#else
QFORMAT_INLINE Floats smaller(Floats a, Floats b) {
    QFORMAT_EACH(PARTS) a.part[i] = a.part[i] < b.part[i] ? a.part[i] : b.part[i];
    return a;
}
QFORMAT_INLINE Floats larger(Floats a, Floats b) {
    QFORMAT_EACH(PARTS) a.part[i] = a.part[i] > b.part[i] ? a.part[i] : b.part[i];
    return a;
}
#endif
QFORMAT_INLINE Floats clip(Floats value, Floats low, Floats high) { return smaller(larger(value, low), high); }

QFORMAT_INLINE Ints bits_of(Floats value) {
    Ints out;
    QFORMAT_EACH(PARTS) out.part[i] = (IntPart)value.part[i];
    return out;
}
QFORMAT_INLINE Floats floats_of(Ints bits) {
    Floats out;
    QFORMAT_EACH(PARTS) out.part[i] = (FloatPart)bits.part[i];
    return out;
}

// Lanes of `a` where `mask` is not zero, of `b` elsewhere.
QFORMAT_INLINE Floats choose(Floats mask, Floats a, Floats b) {
    QFORMAT_EACH(PARTS) a.part[i] = mask.part[i] != 0.0f ? a.part[i] : b.part[i];
    return a;
}

// Lanes of `a` where x < y, of `b` elsewhere.
QFORMAT_INLINE Floats if_below(Floats x, Floats y, Floats a, Floats b) {
    QFORMAT_EACH(PARTS) a.part[i] = x.part[i] < y.part[i] ? a.part[i] : b.part[i];
    return a;
}

QFORMAT_INLINE Floats magnitude(Floats value) {
    QFORMAT_EACH(PARTS) value.part[i] = (FloatPart)((IntPart)value.part[i] & 0x7fffffff);
    return value;
}

// The nearest integer of a value below 2^22, ties to even.
QFORMAT_INLINE Floats nearest(Floats value) {
    const Floats rounder = splat(12582912.0f);
    return (value + rounder) - rounder;
}

// Integers (as floats) of one byte each; the low eight bits of negative ones.
QFORMAT_INLINE void store_bytes(uint8_t* to, Floats value) {
    QFORMAT_EACH(PARTS) {
        BytePart bytes = __builtin_convertvector(__builtin_convertvector(value.part[i], IntPart), BytePart);
        memcpy(to + i * NATIVE, &bytes, NATIVE);
    }
}

typedef float Floats4 __attribute__((vector_size(16)));
typedef float Floats8 __attribute__((vector_size(32)));
typedef int32_t Ints4 __attribute__((vector_size(16)));
typedef int32_t Ints8 __attribute__((vector_size(32)));

struct Add {
    template <class T>
    QFORMAT_INLINE_MEMBER T operator()(T a, T b) const { return a + b; }
};
struct Least {
    template <class T>
    QFORMAT_INLINE_MEMBER T operator()(T a, T b) const { return a < b ? a : b; }
};
struct Most {
    template <class T>
    QFORMAT_INLINE_MEMBER T operator()(T a, T b) const { return a > b ? a : b; }
};

// All lanes in one, folded in halves: 8, 4, 2, 1. Four and Eight are vectors of the parts' items.
template <class Four, class Eight, class Value, class Operation>
QFORMAT_INLINE auto fold_parts(Value value, Operation operation) {
    Four four;
#if QFORMAT_NATIVE == 4
    four = operation(operation(value.part[0], value.part[2]), operation(value.part[1], value.part[3]));
#else
#if QFORMAT_NATIVE == 16
    Eight eight = operation(__builtin_shufflevector(value.part[0], value.part[0], 0, 1, 2, 3, 4, 5, 6, 7),
                            __builtin_shufflevector(value.part[0], value.part[0], 8, 9, 10, 11, 12, 13, 14, 15));
#else
    Eight eight = operation(value.part[0], value.part[1]);
#endif
    four = operation(__builtin_shufflevector(eight, eight, 0, 1, 2, 3), __builtin_shufflevector(eight, eight, 4, 5, 6, 7));
#endif
    four = operation(four, __builtin_shufflevector(four, four, 2, 3, 2, 3));
    const auto first = four[0], second = four[1];
    return operation(first, second);
}

template <class Operation>
QFORMAT_INLINE float fold(Floats value, Operation operation) {
    return fold_parts<Floats4, Floats8>(value, operation);
}

QFORMAT_INLINE float total(Floats value) { return fold(value, Add()); }
QFORMAT_INLINE float lowest(Floats value) { return fold(value, Least()); }
QFORMAT_INLINE float highest(Floats value) { return fold(value, Most()); }
QFORMAT_INLINE int32_t highest(Ints value) { return fold_parts<Ints4, Ints8>(value, Most()); }

QFORMAT_INLINE Ints larger(Ints a, Ints b) {
    QFORMAT_EACH(PARTS) a.part[i] = a.part[i] > b.part[i] ? a.part[i] : b.part[i];
    return a;
}

// The bits of a magnitude: they order like the numbers, NaN beyond infinity.
QFORMAT_INLINE Ints magnitude_bits(Floats value) { return bits_of(magnitude(value)); }

// Entries of a table of sixteen floats.
QFORMAT_INLINE Floats entries(const Floats& table, Ints index) {
    Floats out;
    QFORMAT_EACH(PARTS) {
#if QFORMAT_NATIVE == 16
        out.part[i] = _mm512_permutexvar_ps((__m512i)index.part[i], table.part[0]);
#elif QFORMAT_NATIVE == 8
        out.part[i] = __builtin_shuffle(table.part[0], table.part[1], index.part[i]);
#else
        const FloatPart low = __builtin_shuffle(table.part[0], table.part[1], index.part[i]);
        const FloatPart high = __builtin_shuffle(table.part[2], table.part[3], index.part[i]);
        out.part[i] = (index.part[i] & 8) != 0 ? high : low;
#endif
    }
    return out;
}

QFORMAT_INLINE Ints load_bytes(const uint8_t* from) {
    Ints out;
    QFORMAT_EACH(PARTS) {
#if defined(__AVX512F__)
        out.part[i] = (IntPart)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)from));
#else
        BytePart bytes;
        memcpy(&bytes, from + i * NATIVE, NATIVE);
        out.part[i] = __builtin_convertvector(bytes, IntPart);
#endif
    }
    return out;
}

// Float32 numbers rounded to the nearest float16, ties to even; beyond its range an infinity.
QFORMAT_INLINE Floats to_half(Floats value) {
#if defined(__AVX512F__)
    QFORMAT_EACH(PARTS)
        value.part[i] = _mm512_cvtph_ps(_mm512_cvtps_ph(value.part[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    QFORMAT_EACH(PARTS) {
        const IntPart bits = (IntPart)value.part[i], sign = bits & INT32_MIN, size = bits & INT32_MAX;
        const IntPart even = (size + 0xfff + ((size >> 13) & 1)) & ~0x1fff;
        const IntPart normal = even < 0x47800000 ? even : IntPart{} + 0x7f800000;
        // below 2^-14 steps are 2^-24, those of a float32 in [1/2, 1)
        const IntPart small = (IntPart)(((FloatPart)size + 0.5f) - 0.5f);
        value.part[i] = (FloatPart)((size < 0x38800000 ? small : normal) | sign);
    }
#endif
    return value;
}

// GCC makes two conversions of half the width and an insertion of each of these when it is left to itself.
#if defined(__AVX512F__)
QFORMAT_INLINE IntPart widen_shorts(const uint16_t* from) {
    return (IntPart)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
}
#else
QFORMAT_INLINE IntPart widen_shorts(const uint16_t* from) {
    typedef uint16_t ShortPart __attribute__((vector_size(2 * NATIVE)));
    ShortPart narrow;
    memcpy(&narrow, from, sizeof narrow);
    return __builtin_convertvector(narrow, IntPart);
}
#endif

QFORMAT_INLINE Doubles widen(Floats value) {
    Doubles out;
    QFORMAT_EACH(PARTS) {
#if defined(__AVX512F__)
        const __m512i all = _mm512_castps_si512(value.part[i]);
        out.part[2 * i] = _mm512_cvtps_pd(_mm256_castsi256_ps(_mm512_castsi512_si256(all)));
        out.part[2 * i + 1] = _mm512_cvtps_pd(_mm256_castsi256_ps(_mm512_extracti64x4_epi64(all, 1)));
#else
        const FloatPart all = value.part[i];
        const HalfPart low = __builtin_shufflevector(all, all, QFORMAT_LOW);
        const HalfPart high = __builtin_shufflevector(all, all, QFORMAT_HIGH);
        out.part[2 * i] = __builtin_convertvector(low, DoublePart);
        out.part[2 * i + 1] = __builtin_convertvector(high, DoublePart);
#endif
    }
    return out;
}
QFORMAT_INLINE Doubles operator+(Doubles a, Doubles b) {
    QFORMAT_EACH(DOUBLE_PARTS) a.part[i] += b.part[i];
    return a;
}
QFORMAT_INLINE Doubles operator-(Doubles a, Doubles b) {
    QFORMAT_EACH(DOUBLE_PARTS) a.part[i] -= b.part[i];
    return a;
}
QFORMAT_INLINE Doubles operator*(Doubles a, Doubles b) {
    QFORMAT_EACH(DOUBLE_PARTS) a.part[i] *= b.part[i];
    return a;
}
QFORMAT_INLINE Doubles larger(Doubles a, Doubles b) {
    QFORMAT_EACH(DOUBLE_PARTS) a.part[i] = a.part[i] > b.part[i] ? a.part[i] : b.part[i];
    return a;
}
QFORMAT_INLINE double total(Doubles value) {
    double lanes[LANES];
    memcpy(lanes, &value, sizeof lanes);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}
QFORMAT_INLINE double highest(Doubles value) {
    double lanes[LANES];
    memcpy(lanes, &value, sizeof lanes);
    double out = lanes[0];
    for (int i = 1; i < LANES; ++i) out = lanes[i] > out ? lanes[i] : out;
    return out;
}
QFORMAT_INLINE Doubles magnitude(Doubles value) {
    typedef int64_t LongPart __attribute__((vector_size(4 * NATIVE)));
    QFORMAT_EACH(DOUBLE_PARTS) value.part[i] = (DoublePart)((LongPart)value.part[i] & INT64_MAX);
    return value;
}


// Not by memset: what has an address is stored in every turn of a loop.
QFORMAT_INLINE Doubles no_doubles() {
    Doubles out;
    QFORMAT_EACH(DOUBLE_PARTS) out.part[i] = DoublePart{};
    return out;
}
QFORMAT_INLINE Ints no_ints() {
    Ints out;
    QFORMAT_EACH(PARTS) out.part[i] = IntPart{};
    return out;
}

// sum + x · x of widened floats, whose product float64 holds exactly: fused or not, the result is the same.
QFORMAT_INLINE Doubles plus_square(Doubles sum, Doubles x) {
#if defined(__AVX512F__)
    QFORMAT_EACH(DOUBLE_PARTS) sum.part[i] = _mm512_fmadd_pd(x.part[i], x.part[i], sum.part[i]);
    return sum;
#else
    return sum + x * x;
#endif
}

// The larger of |value| and of `most`, which has no sign.
QFORMAT_INLINE Doubles larger_magnitude(Doubles value, Doubles most) {
#if defined(__AVX512DQ__)
    constexpr int LARGER_WITHOUT_SIGN = 0b1011;
    QFORMAT_EACH(DOUBLE_PARTS) most.part[i] = _mm512_range_pd(value.part[i], most.part[i], LARGER_WITHOUT_SIGN);
    return most;
#else
    return larger(magnitude(value), most);
#endif
}

}  // namespace QFORMAT_ISA
