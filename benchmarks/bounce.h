// A line of the cache that goes to another thread and back: how long that takes tells where the host has the two cores.
#pragma once

#include <immintrin.h>

#include <atomic>
#include <cstdint>

alignas(128) inline std::atomic<uint32_t> ping, pong;

// The side of thread 0 or 1; both counts begin at zero.
inline void bounce(int thread, uint32_t times) {
    for (uint32_t k = 1; k <= times; k++) {
        if (thread == 0) {
            ping = k;
            while (pong != k) _mm_pause();
        } else {
            while (ping != k) _mm_pause();
            pong = k;
        }
    }
}
