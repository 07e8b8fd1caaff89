// Decoding of additive codes to rows of floats. Included by additive-inl.h, whose reading of codes and entries it shares.

// Groups [g, end) of a row: `codes` are those of its panel.
template <int BITS>
static inline void decode_row(const Additive& m, const uint8_t* codes, size_t row, size_t g, size_t end, float scale, float* to) {
    const size_t width = (size_t)m.width, books = (size_t)m.books;
    for (; g < end; g++, to += width)
        for (size_t i = 0; i < width; i += 8) {
            F8 v = {};
            for (size_t book = 0; book < books; book++) {
                const size_t code = code_at<BITS>(codes + (g * books + book) * m.code_bytes(), row);
                const F8 entry = load_some(m.books_by_entry + (book * m.entries() + code) * width + i, width - i);
                v = book ? v + entry : entry;
            }
            if (m.scales) v = scale * v;
            __builtin_memcpy(to + i, &v, 4 * std::min<size_t>(8, width - i));
        }
}

#include "target-inl.h"

// Groups [g, end) of a row, of one or two times eight inputs: whole lines, of two or four eights.
template <int BITS, Value DTYPE, size_t EIGHTS>
static inline size_t decode_lines(const Additive& m, const uint8_t* codes, size_t row, size_t g, size_t end, float scale, const Target& target,
                                  uint8_t* to) {
    constexpr size_t groups = (DTYPE == Value::float32 ? 2 : 4) / EIGHTS;
    const size_t books = (size_t)m.books, next = books * 8 * BITS, width = 8 * EIGHTS;
    const auto sixteen = [&](const uint8_t* p) {
        const float* from = m.books_by_entry;
        F32 v;
        const auto entries = [&](size_t book) {
            const uint8_t* at = p + 8 * BITS * book;
            const float* book_ = from + (width << BITS) * book;
            const float* first = book_ + width * code_at<BITS>(at, row);
            if (EIGHTS == 2) return load_float(first);
            return join(*(const F8u*)first, *(const F8u*)(book_ + width * code_at<BITS>(at + next, row)));
        };
        v = entries(0);
        if (books > 1) v += entries(1);
        for (size_t book = 2; book < books; book++) v += entries(book);
        return m.scales ? splat(scale) * v : v;
    };
    for (; g + groups <= end; g += groups, to += 64) {
        const uint8_t* p = codes + g * next;
        const F32 low = sixteen(p);
        target.put<DTYPE>(to, low, DTYPE == Value::float32 ? low : sixteen(p + 2 / EIGHTS * next));
    }
    return g;
}

template <int BITS, Value DTYPE>
static void decode_rows(const Additive& m, size_t first, size_t last, const Target& target, uint8_t* out) {
    const size_t width = (size_t)m.width, size = target.size(), inputs = m.groups * width;
    const size_t step = std::max<size_t>(4, 512 / width);  // groups decoded at a time: their codes stay close for all rows
    alignas(64) float line[4 * 4096];
    for (size_t top = first; top < last;) {
        const size_t panel = top / kLanes, bottom = std::min((panel + 1) * kLanes, last);
        const uint8_t* codes = m.codes + panel * m.panel_bytes();
        const size_t next = (size_t)m.books * m.code_bytes(), share = std::min(step, m.groups) * next / kLanes;
        for (size_t begin = 0; begin < m.groups; begin += step) {
            const size_t end = std::min(begin + step, m.groups);
            for (size_t row = top; row < bottom; row++) {
                uint8_t* to = out + size * ((row - first) * inputs + begin * width);
                const float scale = m.scales ? m.scales[row] : 1.0f;
                // the codes that follow, a share with each row
                for (size_t i = 0; i < share; i += 64) __builtin_prefetch(codes + end * next + (row % kLanes) * share + i);
                size_t g = begin;
                if (width == 8) g = decode_lines<BITS, DTYPE, 1>(m, codes, row % kLanes, g, end, scale, target, to);
                if (width == 16) g = decode_lines<BITS, DTYPE, 2>(m, codes, row % kLanes, g, end, scale, target, to);
                if (g == end) continue;
                decode_row<BITS>(m, codes, row % kLanes, g, end, scale, line);
                target.put_some<DTYPE>(to + size * (g - begin) * width, line, (end - g) * width);
            }
        }
        top = bottom;
    }
    if (target.stream) fence();
}

template <Value DTYPE>
static void decode_as(const Additive& m, size_t first, size_t last, const Target& target, uint8_t* out) {
    if (m.bits == 4) return decode_rows<4, DTYPE>(m, first, last, target, out);
    if (m.bits == 8) return decode_rows<8, DTYPE>(m, first, last, target, out);
    decode_rows<16, DTYPE>(m, first, last, target, out);
}

static void decode(const Additive& m, size_t first, size_t last, Value dtype, bool stream, uint8_t* out) {
    Target target{dtype, stream, m.normal && rounds_normals()};
    target.stream = stream && (uintptr_t)out % 64 == 0 && m.groups * (size_t)m.width * target.size() % 64 == 0;
    if (dtype == Value::float32) return decode_as<Value::float32>(m, first, last, target, out);
    if (dtype == Value::bfloat16) return decode_as<Value::bfloat16>(m, first, last, target, out);
    decode_as<Value::float16>(m, first, last, target, out);
}
