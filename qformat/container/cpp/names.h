// The names of an index, checked where they lie: a hundred thousand objects for names that nobody asks for would take
// most of the time that opening a file takes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <tuple>

namespace qformat {

constexpr int64_t kNone = -1;

inline bool is_printable(unsigned char c) { return c >= 0x20 && c <= 0x7E && c != '\\'; }

// Neither spaces at its ends nor a piece between slashes that is empty, "." or "..".
inline bool is_plain(const unsigned char* name, const unsigned char* end) {
    if (name == end || *name == ' ' || end[-1] == ' ') return false;
    for (;;) {
        const unsigned char* stop = std::find(name, end, '/');
        const size_t size = static_cast<size_t>(stop - name);
        if (size == 0 || (size <= 2 && name[0] == '.' && name[size - 1] == '.')) return false;
        if (stop == end) return true;
        name = stop + 1;
    }
}

// The first name that holds what is not printable ASCII, the first that is not greater than the one before, and the first
// that is not a plain path; kNone where there is none. Name i is pool[starts[i] .. starts[i + 1]); the order begins anew
// at name number `restart`.
inline std::tuple<int64_t, int64_t, int64_t> check_names(const unsigned char* pool, size_t size, const uint64_t* starts,
                                                         size_t count, size_t restart) {
    for (size_t i = 0; i < count; i++) {
        if (starts[i] > starts[i + 1] || starts[i + 1] > size) throw std::invalid_argument("names lie outside of their pool");
    }
    int64_t unprintable = kNone, unsorted = kNone, unplain = kNone;
    unsigned char bad = 0, odd = 0;
    for (size_t i = 0; i < size; i++) {  // no branches: a vector loop
        bad |= static_cast<unsigned char>((pool[i] < 0x20) | (pool[i] > 0x7E) | (pool[i] == '\\'));
        odd |= static_cast<unsigned char>((pool[i] == ' ') | (pool[i] == '/'));
    }
    for (size_t i = 0; bad && i < count && unprintable == kNone; i++) {
        if (!std::all_of(pool + starts[i], pool + starts[i + 1], is_printable)) unprintable = static_cast<int64_t>(i);
    }
    for (size_t i = 0; i < count && unplain == kNone; i++) {
        if ((odd || starts[i + 1] - starts[i] <= 2) && !is_plain(pool + starts[i], pool + starts[i + 1])) unplain = static_cast<int64_t>(i);
    }
    for (size_t i = 1; i < count && unsorted == kNone; i++) {
        if (i == restart) continue;
        const size_t a = starts[i] - starts[i - 1], b = starts[i + 1] - starts[i];
        const int order = std::memcmp(pool + starts[i - 1], pool + starts[i], std::min(a, b));
        if (order > 0 || (order == 0 && a >= b)) unsorted = static_cast<int64_t>(i);
    }
    return {unprintable, unsorted, unplain};
}

}  // namespace qformat
