// Codes with general registers.

// The bytes of several codes that start `at` bytes after the first of `length`, and others above them; nothing beyond is read.
static inline uint64_t load_codes_at(const uint8_t* codes, size_t at, size_t length) {
    const size_t from = std::min(at, length - 8);
    uint64_t word;
    __builtin_memcpy(&word, codes + from, 8);
    return word >> 8 * (at - from);
}

// `steps` codes of WIDTH bits, least significant bit first, as words.
template <int WIDTH>
static inline void unpack_words(const uint8_t* codes, size_t steps, uint16_t* to) {
    constexpr size_t several = WIDTH <= 8 ? 8 : 4, bytes = several * WIDTH / 8;  // which are whole bytes, at most eight
    for (size_t i = 0; i < steps; i += several) {
        const uint64_t word = load_codes_at(codes, i / several * bytes, steps * WIDTH / 8);
#pragma GCC unroll 8
        for (size_t k = 0; k < several; k++) to[i + k] = (uint16_t)(word >> (k * WIDTH) & ((1u << WIDTH) - 1));
    }
}
