// Runs of columns that are decoded in strips of their own: a matrix of matrices beside each other.
#include <nanobind/stl/vector.h>

#include <numeric>

#include "strips_binding.h"

namespace qformat {
namespace {

struct Part {
    Strips matrix;
    size_t left;  // its first input
};

using Parts = std::vector<Part>;

template <Isa ISA>
void decode(const void* coded, const Rectangle& r, float* out, size_t stride) {
    for (const Part& part : *static_cast<const Parts*>(coded)) {
        const size_t left = std::max(r.left, part.left), right = std::min(r.right, part.left + part.matrix.inputs);
        if (left >= right) continue;
        const Rectangle its{r.first, r.last, left - part.left, right - part.left};
        part.matrix.decode[static_cast<int>(ISA)](part.matrix.coded, its, out + (left - r.left), stride);
    }
}

StripMatrix make(const std::vector<nb::object>& held) {
    require(!held.empty(), "no parts");
    std::vector<const StripMatrix*> matrices;
    for (const nb::object& matrix : held) matrices.push_back(nb::cast<const StripMatrix*>(matrix));
    Parts parts;
    Strips view{nullptr, {decode<Isa::generic>, QFORMAT_IF_X86(decode<Isa::avx2>), QFORMAT_IF_X86(decode<Isa::avx512>)},
                matrices[0]->view.rows, 0, 1, 1, true};
    bool fits = true;  // whether parts start where their rectangles may
    for (const StripMatrix* matrix : matrices) {
        require(matrix->view.rows == view.rows, "the parts have other rows");
        const Strips& its = matrix->view;
        parts.push_back({its, view.inputs});
        view.height = std::lcm(view.height, its.height);
        if (its.width <= Strips::kPiece) view.width = std::lcm(view.width, its.width);
        fits = fits && view.width <= Strips::kPiece && view.width % its.width == 0 && view.inputs % its.width == 0;
        view.inputs += its.inputs;
        view.normal = view.normal && its.normal;
    }
    if (!fits) view.width = view.inputs;
    return in_strips(std::move(parts), view, held);
}

}  // namespace

void bind_split(nb::module_& m) {
    m.def("split", &make, nb::arg("parts"), "Matrices of as many rows beside each other, each decoded in strips.");
}

}  // namespace qformat
