// Codes with general registers.

// BYTES of `length` from `at` on, and perhaps others above them; nothing beyond is read.
template <size_t BYTES>
static inline uint64_t load_some(const uint8_t* codes, size_t at, size_t length) {
    uint64_t word = 0;
    if constexpr ((BYTES & (BYTES - 1)) == 0) {
        __builtin_memcpy(&word, codes + at, BYTES);
        return word;
    }
    const size_t from = std::min(at, length - 8);
    __builtin_memcpy(&word, codes + from, 8);
    return word >> 8 * (at - from);
}

// `steps` codes of WIDTH bits, least significant bit first, as words.
template <int WIDTH>
static inline void unpack_words(const uint8_t* codes, size_t steps, uint16_t* to) {
    constexpr size_t several = WIDTH <= 8 ? 8 : 4, bytes = several * WIDTH / 8;  // which are whole bytes, at most eight
    for (size_t i = 0; i < steps; i += several) {
        const uint64_t word = load_some<bytes>(codes, i / several * bytes, steps * WIDTH / 8);
#pragma GCC unroll 8
        for (size_t k = 0; k < several; k++) to[i + k] = (uint16_t)(word >> (k * WIDTH) & ((1u << WIDTH) - 1));
    }
}
