// Sixteen lanes, one per row of a panel, in the compiler's own vector types: the part of the vocabulary that every
// instruction set shares. Included inside the instruction set's namespace, so that no inline function is shared
// between files compiled with different flags.

typedef uint32_t U32 __attribute__((vector_size(64)));
typedef int32_t I32 __attribute__((vector_size(64)));
typedef float F32 __attribute__((vector_size(64)));
typedef int8_t I8 __attribute__((vector_size(16)));
typedef uint16_t H16 __attribute__((vector_size(32)));  // sixteen floats of two bytes
typedef uint16_t H32 __attribute__((vector_size(64)));
typedef uint32_t U32u __attribute__((vector_size(64), aligned(1), may_alias));
typedef float F32u __attribute__((vector_size(64), aligned(1), may_alias));
typedef uint16_t H16u __attribute__((vector_size(32), aligned(1), may_alias));
typedef uint16_t H32u __attribute__((vector_size(64), aligned(1), may_alias));

#define QF_INLINE static inline __attribute__((always_inline))  // loops that only pay when their sizes are known

// Sixteen dwords. `keep_loaded` (the instruction set's) stops the compiler from reading the line again for each field: a
// load folded into every mask costs a quarter of the bandwidth (benchmarks/layout/README.md).
static inline U32 load_codes(const void* p) {
    U32 v = *(const U32u*)p;
    keep_loaded(v);
    return v;
}
// Asks for what will be read soon: from memory into the second cache what lies kAhead bytes on, from there into the first what
// is next. Either may lie beyond the end, which does no harm. (A function that does nothing else is taken for one without effect,
// and its calls for dead code, unless it is inlined before.)
QF_INLINE void ask_ahead(const uint8_t* p, size_t bytes) {
    if (kAhead == 0) return;
    for (size_t at = 0; at < bytes; at += 64) {
        __builtin_prefetch(p + kAhead + at, 0, 2);
        __builtin_prefetch(p + kNext + at, 0, 3);
    }
}
static inline F32 load_float(const void* p) { return *(const F32u*)p; }
static inline void store_float(float* p, F32 v) { *(F32u*)p = v; }
static inline void store_words(uint16_t* p, H16 v) { *(H16u*)p = v; }
static inline void store_words(uint16_t* p, H32 v) { *(H32u*)p = v; }
// The instruction set's own.
static inline F32 splat(float v);
static inline U32 splat(uint32_t v);
template <int ODD, int FROM>
static inline U32 join_three(U32 twos, U32 ones);  // only where kJoinsThree

// The dword at `p` in every lane, whatever its alignment.
static inline U32 splat_dword(const void* p) {
    uint32_t v;
    __builtin_memcpy(&v, p, 4);
    return splat(v);
}

// Round to nearest even; NaN stays NaN.
static inline uint16_t to_bfloat(float v) {
    uint32_t bits;
    __builtin_memcpy(&bits, &v, 4);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
