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

namespace QFORMAT_ISA {

template <int CHUNKS, class Method>
QFORMAT_INLINE void walk(const Method& method, const GroupJob& job, size_t first, size_t last, float* scratch) {
    const size_t groups = (job.columns + job.group - 1) / job.group;
    for (size_t row = first; row < last; ++row) {
        Errors errors;
        errors.clear();
        for (size_t g = 0; g < groups; ++g) {
            const size_t start = g * job.group;
            const size_t length = job.columns - start < job.group ? job.columns - start : job.group;
            const size_t at = row * job.columns + start;
            method(job, group_at<CHUNKS>(job.weight + at, length, scratch), row * groups + g, job.codes + at, errors);
        }
        errors.write(job.errors + 3 * row);
    }
}

// Groups of 32, 64 and 128 that fill the row have loops of fixed length.
template <class Method>
static void rows(const GroupJob& job, size_t first, size_t last, float* scratch) {
    const Method method;
    const bool even = job.columns % job.group == 0;
    if (even && job.group == 64) walk<4>(method, job, first, last, scratch);
    else if (even && job.group == 128) walk<8>(method, job, first, last, scratch);
    else if (even && job.group == 32) walk<2>(method, job, first, last, scratch);
    else walk<0>(method, job, first, last, scratch);
}

#define QFORMAT_TEXT(name) #name
#define QFORMAT_NAME(name) QFORMAT_TEXT(name)

extern const Loops loops;
const Loops loops = {QFORMAT_NAME(QFORMAT_ISA), rows<RtnSymmetric>, rows<RtnAsymmetric>, rows<LeastSquares>,
                     rows<HalfQuadratic>, lookup, scaled_rows, largest_of, extremes, measure_lookup,
                     measure, widen_halves, narrow_halves, pack_panels, pack_stream};

}  // namespace QFORMAT_ISA
