// A plain read: what memory gives to one forward stream for each thread, which the speed of the kernels is compared with.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "pool.h"

namespace nb = nanobind;

namespace qformat {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr size_t kLine = 64, kStep = 8 * kLine, kAhead = 4096;

typedef uint64_t Line __attribute__((vector_size(kLine), aligned(1), may_alias));

// The sum of the 64-bit words of whole steps. Prefetches may reach past the end: they never fault.
[[gnu::always_inline]] inline uint64_t sum_lines(const uint8_t* from, size_t bytes, bool prefetch) {
    Line sums[8] = {};
    for (size_t at = 0; at + kStep <= bytes; at += kStep) {
        for (size_t k = 0; k < 8; k++) {
            if (prefetch) __builtin_prefetch(from + at + k * kLine + kAhead);
            sums[k] += *reinterpret_cast<const Line*>(from + at + k * kLine);
        }
    }
    uint64_t all = 0;
    for (const Line& line : sums)
        for (size_t i = 0; i < kLine / sizeof(uint64_t); i++) all += line[i];
    return all;
}

uint64_t sum(const uint8_t* from, size_t bytes, bool prefetch) { return sum_lines(from, bytes, prefetch); }

// Loads of a whole line are what the bandwidth of one core needs; more than this choice the instruction set does not matter.
#if defined(QFORMAT_X86)
[[gnu::target("avx512f")]] uint64_t sum_avx512(const uint8_t* from, size_t bytes, bool prefetch) {
    return sum_lines(from, bytes, prefetch);
}
[[gnu::target("avx2")]] uint64_t sum_avx2(const uint8_t* from, size_t bytes, bool prefetch) {
    return sum_lines(from, bytes, prefetch);
}
#endif

auto widest() {
#if defined(QFORMAT_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return sum_avx512;
    if (__builtin_cpu_supports("avx2")) return sum_avx2;
#endif
    return sum;
}

uint64_t plain_read(Bytes extent, bool prefetch) {
    const uint8_t* from = extent.data();
    const size_t bytes = extent.size();
    nb::gil_scoped_release release;
    const size_t steps = bytes / kStep, threads = static_cast<size_t>(pool::threads());
    const auto add = widest();
    std::atomic<uint64_t> total{0};
    pool::run(steps, steps / threads + 1, [&](size_t first, size_t last) {
        total += add(from + first * kStep, (last - first) * kStep, prefetch);
    });
    uint64_t rest = 0;
    for (size_t at = steps * kStep; at < bytes; at++) rest += from[at];
    return total + rest;
}

}  // namespace

void bind_plain_read(nb::module_& m) {
    m.def("plain_read", &plain_read, nb::arg("extent").noconvert(), nb::arg("prefetch"),
          "Reads every byte once; gives the sum of the 64-bit words (of the bytes, in the last 511), modulo 2^64.");
}

}  // namespace qformat
