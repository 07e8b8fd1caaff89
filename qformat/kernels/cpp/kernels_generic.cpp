#include "kernels.h"

namespace qformat {
namespace generic {
#include "vec_generic.h"
#include "body-inl.h"

static const Kernels table = {"generic", choose_matvec, dense::matvec, decode_panels, activations::prepare, results::narrow};
}  // namespace generic

const Kernels* generic_kernels() { return &generic::table; }

}  // namespace qformat
