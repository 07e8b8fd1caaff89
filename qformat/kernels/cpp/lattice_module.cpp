// The Python face of lattices: a view that is checked against the length of its extent.
#include "lattice.h"

#include <nanobind/stl/vector.h>

#include <cstring>

#include "strips_binding.h"

namespace qformat {
namespace {

using Words = nb::ndarray<const uint64_t, nb::c_contig, nb::device::cpu>;

constexpr size_t kCodes = 256;  // values of a byte

StripMatrix make(size_t rows, size_t inputs, const std::vector<Bytes>& codes, const std::vector<Words>& points,
                 const std::vector<std::optional<Words>>& signs, Floats levels, bool normal) {
    require(!codes.empty() && codes.size() <= kLattices, "number of lattices out of range");
    require(points.size() == codes.size() && signs.size() == codes.size() && levels.size() == 16 * codes.size(), "not one of each for each lattice");
    require(inputs % kPoint == 0, "points do not fill the rows");
    Lattices v{inputs / kPoint, static_cast<int>(codes.size()), {}};
    Owners owners;
    for (size_t i = 0; i < codes.size(); i++) {
        Lattice& its = v.of[i];
        its.bits = signs[i] ? 16 : 8;
        require(codes[i].size() / (static_cast<size_t>(its.bits) / 8) >= rows * v.points, "the codes are longer than their extent");
        its.codes = codes[i].data();
        its.points = data_of(owners, std::optional(points[i]), signs[i] ? 2 * kCodes : kCodes, "the points have another shape");
        its.signs = data_of(owners, signs[i], 2 * kCodes, "the signs have another shape");
        std::memcpy(its.levels, levels.data() + 16 * i, sizeof its.levels);
        owners.push_back(nb::cast(codes[i]));
    }
    const Strips view{nullptr, {lattice_generic, QFORMAT_IF_X86(lattice_avx2), QFORMAT_IF_X86(lattice_avx512)}, rows, inputs, 1, kPoint, normal};
    return in_strips(v, view, std::move(owners));
}

}  // namespace

void bind_lattice(nb::module_& m) {
    m.def("lattice", &make, nb::arg("rows"), nb::arg("inputs"), nb::arg("codes"), nb::arg("points"), nb::arg("signs"), nb::arg("levels"),
          nb::arg("normal"),
          "A sum of points of lattices: for each its codes, its points as bytes that number the 16 levels, and, where codes have 16 bits, its "
          "signs.");
}

}  // namespace qformat
