// What the memory gives: plain reads and writes with one forward stream per thread, and where the host has the two cores.
// Compiled and called by benchmarks/machine.py.
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "bounce.h"

namespace {

using Clock = std::chrono::steady_clock;
typedef uint64_t Line __attribute__((vector_size(64), aligned(1), may_alias));

// Seconds of body(thread) on `count` threads, each on a core of its own, from a common start.
template <class Body>
double on_threads(int count, Body body) {
    std::atomic<int> ready{0};
    std::vector<Clock::time_point> start(static_cast<size_t>(count)), end(start);
    auto run = [&](int i) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(i, &set);
        pthread_setaffinity_np(pthread_self(), sizeof set, &set);
        ready++;
        while (ready < count) _mm_pause();
        start[static_cast<size_t>(i)] = Clock::now();
        body(i);
        end[static_cast<size_t>(i)] = Clock::now();
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < count; i++) threads.emplace_back(run, i);
    for (auto& thread : threads) thread.join();
    auto first = start[0], last = end[0];
    for (size_t i = 1; i < start.size(); i++) first = std::min(first, start[i]), last = std::max(last, end[i]);
    return std::chrono::duration<double>(last - first).count();
}

std::atomic<uint64_t> sink;

void stream(uint8_t* to, Line value) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(value));
#else
    __m128i quarters[4];
    std::memcpy(quarters, &value, sizeof value);
    for (int k = 0; k < 4; k++) _mm_stream_si128(reinterpret_cast<__m128i*>(to) + k, quarters[k]);
#endif
}

}  // namespace

extern "C" {

double plain_read(const uint8_t* base, size_t bytes, int threads, size_t ahead) {
    return on_threads(threads, [=](int i) {
        const size_t part = bytes / static_cast<size_t>(threads) / 512 * 512;
        const uint8_t* p = base + part * static_cast<size_t>(i);
        Line sum[8] = {};
        for (size_t at = 0; at < part; at += 512)
            for (size_t k = 0; k < 8; k++) {
                if (ahead) __builtin_prefetch(p + at + 64 * k + ahead);
                sum[k] += *reinterpret_cast<const Line*>(p + at + 64 * k);
            }
        for (int k = 1; k < 8; k++) sum[0] += sum[k];
        sink += sum[0][0] + sum[0][7];
    });
}

// `streaming`: stores that go past the caches. `base` is aligned to 64 bytes.
double plain_write(uint8_t* base, size_t bytes, int threads, int streaming) {
    return on_threads(threads, [=](int i) {
        const size_t part = bytes / static_cast<size_t>(threads) / 64 * 64;
        uint8_t* p = base + part * static_cast<size_t>(i);
        for (size_t at = 0; at < part; at += 64) {
            const Line value = Line{} + at;
            if (streaming)
                stream(p + at, value);
            else
                *reinterpret_cast<Line*>(p + at) = value;
        }
        _mm_sfence();
    });
}

// Two threads of arithmetic in registers over one: 1 on two cores, 2 on the two threads of one core.
double sharing() {
    auto work = [](int) {
        Line a[10] = {};
        for (int r = 0; r < 400000; r++)
            for (auto& v : a) {
                v = v * 3 + 1;
                asm volatile("" : "+x"(v));
            }
        sink += a[0][0];
    };
    on_threads(2, work);
    const double one = on_threads(1, work), two = on_threads(2, work);
    return two / one;
}

// Nanoseconds for a cache line to go to the other thread and back.
double round_trip() {
    double best = 1e9;
    for (int repeat = 0; repeat < 5; repeat++) {
        ping = 0, pong = 0;
        const double seconds = on_threads(2, [](int i) { bounce(i, 1000); });
        best = std::min(best, seconds / 1000 * 1e9);
    }
    return best;
}
}
