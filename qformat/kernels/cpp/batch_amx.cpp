// Many rows by AMX: tiles of 16 rows of x, of 32 inputs, times tiles of 16 rows of a panel.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "batch.h"

namespace qformat {
namespace batch_in_amx {
#include "vec_avx512.h"

#pragma GCC diagnostic ignored "-Wunused-function"  // of the activations only some are needed
#include "activations-inl.h"
#include "panel-inl.h"
#include "batch-inl.h"

constexpr size_t kTile = 16;               // rows of a tile, of 64 bytes each
constexpr size_t kDwords = kTile * kTile;  // of a tile

// The compiler does not know that tiles are loaded from memory and stored to it.
static inline void settle_memory() { asm volatile("" ::: "memory"); }

struct Tiles {
    static constexpr int kPanels = 4;

    // All eight tiles have 16 rows of 64 bytes, until it ends.
    struct Ready {
        Ready() {
            struct alignas(64) {
                uint8_t palette = 1, start_row = 0, reserved[14] = {};
                uint16_t row_bytes[16] = {};
                uint8_t rows[16] = {};
            } config;
            for (int tile = 0; tile < 8; tile++) config.row_bytes[tile] = 64, config.rows[tile] = kTile;
            settle_memory();
            _tile_loadconfig(&config);
        }
        ~Ready() { _tile_release(); }
        Ready(const Ready&) = delete;
        Ready& operator=(const Ready&) = delete;
    };

    // Two tiles a run, row by row.
    static inline void put(uint32_t* to, const uint16_t* words, size_t row, size_t) {
        for (size_t tile = 0; tile < 2; tile++) __builtin_memcpy(to + tile * kDwords + row * kTile, words + 2 * kTile * tile, 64);
    }

    // The 16 rows of x from `row` on: a tile of theirs meets those of all panels.
    template <int COUNT>
    static inline void block(const batch::Weights* w, const batch::Chunk& c, const Batch& x, size_t row, F32 (*y)[kBatch]) {
        alignas(64) float sums[COUNT][kDwords];
        const uint32_t* from = x.pairs + row * x.runs * batch::kPairs + c.run * 2 * kDwords;
        const size_t tiles = (c.inputs + 31) / 32;
        _tile_zero(0);
        if constexpr (COUNT > 1) _tile_zero(1);
        if constexpr (COUNT > 2) _tile_zero(2);
        if constexpr (COUNT > 3) _tile_zero(3);
        for (size_t i = 0; i < tiles; i++, from += kDwords) {
            _tile_loadd(4, from, 64);
            _tile_loadd(5, w[0].pairs + kTile * i, 64);
            _tile_dpbf16ps(0, 4, 5);
            if constexpr (COUNT > 1) {
                _tile_loadd(6, w[1].pairs + kTile * i, 64);
                _tile_dpbf16ps(1, 4, 6);
            }
            if constexpr (COUNT > 2) {
                _tile_loadd(7, w[2].pairs + kTile * i, 64);
                _tile_dpbf16ps(2, 4, 7);
            }
            if constexpr (COUNT > 3) {
                _tile_loadd(5, w[3].pairs + kTile * i, 64);
                _tile_dpbf16ps(3, 4, 5);
            }
        }
        _tile_stored(0, sums[0], 64);
        if constexpr (COUNT > 1) _tile_stored(1, sums[1], 64);
        if constexpr (COUNT > 2) _tile_stored(2, sums[2], 64);
        if constexpr (COUNT > 3) _tile_stored(3, sums[3], 64);
        settle_memory();
        const float* totals = x.totals + c.index * x.rows + row;
        for (int k = 0; k < COUNT; k++)
#pragma GCC unroll 16
            for (size_t i = 0; i < kTile; i++) {
                F32& sum = y[k][row + i];
                sum = fma(w[k].scale, load_float(sums[k] + kTile * i), fma(w[k].shift, splat(totals[i]), sum));
            }
    }

    template <int COUNT>
    static inline void multiply(const batch::Weights* w, const batch::Chunk& c, const Batch& x, F32 (*y)[kBatch]) {
        settle_memory();
        for (size_t row = 0; row < x.rows; row += kTile) block<COUNT>(w, c, x, row, y);
    }
};

static const BatchKernels table = {{128, kTile, kTile}, batch::prepare<Tiles>, batch::product<Tiles>};

// A process asks the system for the room that tiles take when threads are switched.
static bool permitted() {
    constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
}
}  // namespace batch_in_amx

const BatchKernels* batch_amx() {
    static const bool there = __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") && batch_in_amx::permitted();
    return there ? &batch_in_amx::table : nullptr;
}

}  // namespace qformat
