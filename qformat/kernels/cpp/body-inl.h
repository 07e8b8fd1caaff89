// The body of an instruction set: everything above, gathered into its table of functions. Included by
// kernels_<isa>.cpp inside the instruction set's namespace, after its vocabulary.

#include "activations-inl.h"
#include "results-inl.h"
#include "panel-inl.h"
#ifdef QF_RUN
#include QF_RUN
#else
#include "run-inl.h"
#endif
#include "decode-inl.h"
#include "dense-inl.h"
#ifdef QF_HAS_BFLOAT
#include "bfloat-inl.h"
#endif

// Calls f.template operator()<BITS>() for the width of `bits`.
template <class F>
static auto for_bits(int bits, F f) {
    switch (bits) {
        case 1: return f.template operator()<1>();
        case 2: return f.template operator()<2>();
        case 3: return f.template operator()<3>();
        case 4: return f.template operator()<4>();
        case 5: return f.template operator()<5>();
        case 6: return f.template operator()<6>();
        case 7: return f.template operator()<7>();
        default: return f.template operator()<8>();
    }
}

template <class F>
static auto for_batch(int batch, F f) {
    switch (batch) {
        case 1: return f.template operator()<1>();
        case 4: return f.template operator()<4>();
        default: return f.template operator()<8>();
    }
}

static PanelKernel choose_matvec(const Panels& m, Mode mode, int batch) {
    const bool table = m.table != nullptr;
    return for_bits(m.bits, [&]<int BITS>() -> PanelKernel {
        return for_batch(batch, [&]<int B>() -> PanelKernel {
            if (mode == Mode::int8) {
                // a table is looked up byte by byte, which planes of several widths do not give
                if (table) return panel::Planes<BITS>::count > 1 ? nullptr : panel::matvec_int8<BITS, true, B>;
                return panel::matvec_int8<BITS, false, B>;
            }
            if (mode == Mode::float32) return table ? panel::matvec_float<BITS, true, B> : panel::matvec_float<BITS, false, B>;
#ifdef QF_HAS_BFLOAT
            if (!table && __builtin_cpu_supports("avx512bf16")) return bfloat::matvec<BITS, B>;
#endif
            return nullptr;
        });
    });
}

static void decode_panels(const Panels& m, size_t first, size_t last, Value dtype, bool stream, void* out) {
    for_bits(m.bits, [&]<int BITS>() {
        if (dtype == Value::float32) {
            decode::choose<BITS, Value::float32>(m, first, last, stream, (float*)out);
        } else if (dtype == Value::bfloat16) {
            decode::choose<BITS, Value::bfloat16>(m, first, last, stream, (uint16_t*)out);
        } else {
            decode::choose<BITS, Value::float16>(m, first, last, stream, (uint16_t*)out);
        }
    });
}
