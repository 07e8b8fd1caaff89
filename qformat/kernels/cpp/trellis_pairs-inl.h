// Pairs of floats without an instruction that gathers them.

static inline void store_pairs(const float* table, U32 index, U32 turned, int half, float* to) {
    uint32_t at[16], signs[16];
    __builtin_memcpy(at, &index, sizeof at);
    __builtin_memcpy(signs, &turned, sizeof signs);
    for (int i = 0; i < 8; i++) {
        uint64_t pair;
        __builtin_memcpy(&pair, table + 2 * (size_t)at[8 * half + i], 8);
        pair ^= signs[8 * half + i];
        __builtin_memcpy(to + 2 * i, &pair, 8);
    }
}
