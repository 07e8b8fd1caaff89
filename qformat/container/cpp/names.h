// The names of an index, checked where they lie: a hundred thousand objects for names that nobody asks for would take
// most of the time that opening a file takes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace qformat {

constexpr int64_t kNone = -1;

inline bool is_printable(unsigned char c) { return c >= 0x20 && c <= 0x7E && c != '\\'; }

// (first name that holds what is not printable ASCII, first name that is not greater than the one before), kNone where
// there is none. Name i is pool[starts[i] .. starts[i + 1]); the order begins anew at name number `restart`.
inline std::pair<int64_t, int64_t> check_names(const unsigned char* pool, size_t size, const uint64_t* starts, size_t count,
                                               size_t restart) {
    for (size_t i = 0; i < count; i++) {
        if (starts[i] > starts[i + 1] || starts[i + 1] > size) throw std::invalid_argument("names lie outside of their pool");
    }
    int64_t unprintable = kNone, unsorted = kNone;
    unsigned char bad = 0;
    for (size_t i = 0; i < size; i++) {
        bad |= static_cast<unsigned char>((pool[i] < 0x20) | (pool[i] > 0x7E) | (pool[i] == '\\'));  // no branches: a vector loop
    }
    for (size_t i = 0; bad && i < count && unprintable == kNone; i++) {
        if (!std::all_of(pool + starts[i], pool + starts[i + 1], is_printable)) unprintable = static_cast<int64_t>(i);
    }
    for (size_t i = 1; i < count && unsorted == kNone; i++) {
        if (i == restart) continue;
        const size_t a = starts[i] - starts[i - 1], b = starts[i + 1] - starts[i];
        const int order = std::memcmp(pool + starts[i - 1], pool + starts[i], std::min(a, b));
        if (order > 0 || (order == 0 && a >= b)) unsorted = static_cast<int64_t>(i);
    }
    return {unprintable, unsorted};
}

}  // namespace qformat
