// Results as the caller wants them.

namespace results {

// `count` floats of y as `kind`, rounded to the nearest; y is readable up to the next multiple of 16.
static void narrow(const float* y, size_t count, Value kind, uint8_t* out) {
    if (kind == Value::float32) {
        __builtin_memcpy(out, y, 4 * count);
        return;
    }
    uint16_t* to = (uint16_t*)out;
    for (size_t i = 0; i < count; i += 16) {
        uint16_t words[16];
        uint16_t* into = i + 16 <= count ? to + i : words;
        kind == Value::bfloat16 ? store_bfloat(into, load_float(y + i)) : store_half(into, load_float(y + i));
        if (into == words) __builtin_memcpy(to + i, words, 2 * (count - i));
    }
}

}  // namespace results
