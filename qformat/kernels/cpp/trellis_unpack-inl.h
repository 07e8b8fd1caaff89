// Codes of any width with general registers.

// `steps` codes of WIDTH bits, least significant bit first, as words.
template <int WIDTH>
static inline void unpack_words(const uint8_t* codes, size_t steps, uint16_t* to) {
    constexpr size_t several = WIDTH <= 8 ? 8 : 4, bytes = several * WIDTH / 8;  // which are whole bytes, at most eight
    for (size_t i = 0; i < steps; i += several, codes += bytes) {
        uint64_t word = 0;
        __builtin_memcpy(&word, codes, bytes);
#pragma GCC unroll 8
        for (size_t k = 0; k < several; k++) to[i + k] = (uint16_t)(word >> (k * WIDTH) & ((1u << WIDTH) - 1));
    }
}
