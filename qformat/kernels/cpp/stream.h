// What one thread writes for others, passed on through memory.
//
// A core that writes lines which another core has read, or reads lines which another one has written, waits for that core's
// cache, one line after the other. On two core complexes this took longer for the activations of 4096 inputs than all else that
// a call does beside its reading; copied past the caches they come as the codes do. On one complex both take as long.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#if defined(QFORMAT_X86)
#include <emmintrin.h>
#endif

namespace qformat {

struct alignas(64) Line {
    uint8_t bytes[64];
};

// Whole lines of numbers, from a line's start on.
template <class T>
auto lines_of(T* first, T* last) {
    using L = std::conditional_t<std::is_const_v<T>, const Line, Line>;
    return std::span<L>(reinterpret_cast<L*>(first), reinterpret_cast<L*>(last));
}

// Copies past the caches; the copy is there for whoever is told of it afterwards.
inline void stream(std::span<const Line> from, std::span<Line> to) {
#if defined(QFORMAT_X86)
    for (size_t i = 0; i < from.size(); i++) {
        const auto* in = reinterpret_cast<const __m128i*>(from[i].bytes);
        auto* out = reinterpret_cast<__m128i*>(to[i].bytes);
        for (int k = 0; k < 4; k++) _mm_stream_si128(out + k, _mm_load_si128(in + k));
    }
    _mm_sfence();
#else
    std::memcpy(to.data(), from.data(), from.size_bytes());
#endif
}

// Asks for all lines at once. (Inlined: a function that does nothing else is taken for one without effect.)
[[gnu::always_inline]] inline void fetch(std::span<const std::byte> lines) {
    for (size_t at = 0; at < lines.size(); at += sizeof(Line)) __builtin_prefetch(lines.data() + at);
}

}  // namespace qformat
