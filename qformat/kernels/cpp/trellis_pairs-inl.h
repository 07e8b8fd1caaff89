// Pairs of floats without an instruction that gathers them.

static inline F32 pairs(const float* table, U32 index, U32 turned, int half) {
    uint32_t at[16], signs[16], words[16];
    __builtin_memcpy(at, &index, sizeof at);
    __builtin_memcpy(signs, &turned, sizeof signs);
    for (int i = 0; i < 8; i++) {
        __builtin_memcpy(words + 2 * i, table + 2 * (size_t)at[8 * half + i], 8);
        words[2 * i] ^= signs[8 * half + i];
    }
    return load_float(words);
}
