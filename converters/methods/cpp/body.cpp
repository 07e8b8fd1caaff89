// All loops of one instruction set. Compiled once for each, with QFORMAT_ISA naming it: see CMakeLists.txt.
#ifndef QFORMAT_ISA
#error "QFORMAT_ISA must name the instruction set"
#endif

#include "flat.hpp"
#include "groups.hpp"
#include "hqq.hpp"
#include "ls.hpp"
#include "pack.hpp"
#include "rtn.hpp"
#include "slab.hpp"

namespace QFORMAT_ISA {

template <int NUMBER>
struct Chunks {
    static constexpr int number = NUMBER;
};

// Groups of 32, 64 and 128 that fill the row have loops of fixed length.
template <class Body>
QFORMAT_INLINE void by_group(const GroupJob& job, const Body& body) {
    const bool even = job.columns % job.group == 0;
    if (even && job.group == 64) body(Chunks<4>());
    else if (even && job.group == 128) body(Chunks<8>());
    else if (even && job.group == 32) body(Chunks<2>());
    else body(Chunks<0>());
}

template <bool SYMMETRIC>
static void round_rows(const GroupJob& job, size_t first, size_t last, float* scratch) {
    by_group(job, [&](auto chunks) { rtn_rows<decltype(chunks)::number, SYMMETRIC>(job, first, last, scratch); });
}

template <int CHUNKS, class Method>
QFORMAT_INLINE void walk(const Method& method, const GroupJob& job, size_t first, size_t last, float* scratch) {
    const size_t groups = groups_of(job.columns, job.group);
    for (size_t row = first; row < last; ++row) {
        Errors errors;
        errors.clear();
        for (size_t g = 0; g < groups; ++g) {
            const size_t start = g * job.group, at = row * job.columns + start;
            const Group<CHUNKS> group = group_at<CHUNKS>(job.weight + at, length_of(job, start), scratch);
            method(job, group, row * groups + g, job.codes + at, errors);
        }
        errors.write(job.errors + 3 * row);
    }
}

template <class Method>
static void rows(const GroupJob& job, size_t first, size_t last, float* scratch) {
    by_group(job, [&](auto chunks) { walk<decltype(chunks)::number>(Method(), job, first, last, scratch); });
}

#define QFORMAT_TEXT(name) #name
#define QFORMAT_NAME(name) QFORMAT_TEXT(name)

extern const Loops loops;
const Loops loops = {QFORMAT_NAME(QFORMAT_ISA), round_rows<true>, round_rows<false>, rows<LeastSquares>,
                     rows<HalfQuadratic>, lookup_rows, scaled_rows, lookup, largest_of, extremes, measure_lookup,
                     measure, widen_halves, largest_bits, narrow_halves, panel_bytes, pack_panels, pack_stream, slab};

}  // namespace QFORMAT_ISA
