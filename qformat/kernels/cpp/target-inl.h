// Where decoded rows go, and how they are rounded and written. Included inside an instruction set's namespace.

#if !defined(QF_ROUNDS_NORMALS)
static inline bool rounds_normals() { return false; }
static inline H32 normals_to_bfloats(F32 low, F32 high) { return to_bfloats(low, high); }
#endif

struct Target {
    Value dtype;
    bool stream;  // past the caches, a line at a time
    bool normal;  // no subnormal numbers, and an instruction that rounds all others to bfloat16

    size_t size() const { return dtype == Value::float32 ? 4 : 2; }
    // As many values as a line holds: 32 of 16 bits, or 16, which are `low`.
    template <Value DTYPE>
    void put(uint8_t* to, F32 low, F32 high) const {
        if constexpr (DTYPE == Value::float32) {
            stream ? stream_float((float*)to, low) : store_float((float*)to, low);
        } else {
            const H32 words = DTYPE == Value::float16 ? to_halves(low, high) : normal ? normals_to_bfloats(low, high) : to_bfloats(low, high);
            stream ? stream_words((uint16_t*)to, words) : store_words((uint16_t*)to, words);
        }
    }
    template <Value DTYPE>
    void put_some(uint8_t* to, const float* values, size_t count) const {
        constexpr size_t line = DTYPE == Value::float32 ? 16 : 32;
        for (size_t i = 0; i < count; i += line) {
            alignas(64) float part[32] = {}, stored[16];
            const size_t here = std::min(line, count - i);
            __builtin_memcpy(part, values + i, 4 * here);
            Target{dtype, false, false}.put<DTYPE>((uint8_t*)stored, load_float(part), load_float(part + 16));
            __builtin_memcpy(to + size() * i, stored, size() * here);
        }
    }
};
