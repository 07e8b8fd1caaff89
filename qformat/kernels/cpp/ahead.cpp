// Whether kernels ask for what they will read.
//
// Every line of codes is worth ten or twenty instructions. Intel's cores look not far enough beyond them, and what they prefetch
// by themselves stops at the second cache, so that memory and arithmetic take turns: there, lines are asked for 4 KiB ahead. AMD's
// (Zen 4) read as fast as memory gives without that, and no faster with it.
#include "kernels.h"

namespace qformat {
namespace {

size_t ahead() {
#if defined(QFORMAT_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_is("intel")) return 4096;
#endif
    return 0;
}

}  // namespace

const size_t kAhead = ahead();

}  // namespace qformat
