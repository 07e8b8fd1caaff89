// The Python face of affine and lookup codes in the plain layout: a view that is checked against the length of its codes.
#include "plain.h"

#include <algorithm>

#include "strips_binding.h"

namespace qformat {
namespace {

using Indices = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Numbers of groups that the weights of a view have.
size_t numbers_of(const Grouping& g, size_t rows, size_t inputs) {
    switch (g.spread) {
        case Spread::blocks: return ((g.first + rows - 1) / g.high + 1) * g.across;
        case Spread::flat: return (g.first + rows * inputs - 1) / g.size + 1;
        case Spread::comb: return std::min(g.size, g.first + rows * inputs);
        default: return rows * g.size;
    }
}

StripMatrix make(size_t rows, size_t inputs, Bytes codes, size_t skip, int bits, float bias, std::optional<Floats> table, int spread,
                 size_t size, size_t high, size_t first, std::optional<Indices> groups, std::optional<Floats> scales,
                 std::optional<Floats> minus, std::optional<Floats> plus, float offset, bool normal) {
    constexpr size_t most = size_t{1} << 48;
    require(rows > 0 && inputs > 0 && inputs <= most / rows, "a matrix that is empty or too large has no kernel");
    require(bits >= 1 && bits <= 8 && skip < 8, "bits out of range");
    require(spread >= 0 && spread <= 3 && size > 0 && size <= most && high > 0 && high <= most && first <= most, "groups out of range");
    Owners owners;
    Plain v{codes.data(), codes.size(), skip, inputs, bits, bias, nullptr, 0, {}, nullptr, nullptr, nullptr, offset};
    require(v.nbytes >= ((skip + rows * inputs) * static_cast<size_t>(bits) + 7) / 8, "the codes are longer than their extent");
    owners.push_back(nb::cast(codes));
    if (table) {
        const size_t entries = size_t{1} << bits;
        v.table_step = table->size() == entries ? 0 : entries;
        v.table = data_of(owners, table, v.table_step ? rows * entries : entries, "a table has 2^bits entries");
    }
    v.group = {static_cast<Spread>(spread), size, high, (inputs + size - 1) / size, first, nullptr};
    require(v.group.spread != Spread::comb || first < size, "groups out of range");
    require((v.group.spread == Spread::map) == groups.has_value(), "only a map has groups by column");
    v.group.groups = data_of(owners, groups, inputs, "the groups have another shape");
    for (size_t i = 0; groups && i < inputs; i++) require(v.group.groups[i] < size, "a group does not exist");
    const size_t count = numbers_of(v.group, rows, inputs);
    v.scales = data_of(owners, scales, count, "the scales have another shape");
    v.minus = data_of(owners, minus, count, "the zeros have another shape");
    v.plus = data_of(owners, plus, count, "the offsets have another shape");
    const Strips view{nullptr, {plain_generic, QFORMAT_IF_X86(plain_avx2), QFORMAT_IF_X86(plain_avx512)}, rows, inputs, 1, 1, normal};
    return in_strips(v, view, std::move(owners));
}

}  // namespace

void bind_plain(nb::module_& m) {
    m.def("plain", &make, nb::arg("rows"), nb::arg("inputs"), nb::arg("codes"), nb::arg("skip"), nb::arg("bits"), nb::arg("bias"),
          nb::arg("table").none(), nb::arg("spread"), nb::arg("size"), nb::arg("high"), nb::arg("first"), nb::arg("groups").none(),
          nb::arg("scales").none(), nb::arg("minus").none(), nb::arg("plus").none(), nb::arg("offset"), nb::arg("normal"),
          "Affine or lookup codes in the plain layout: a stream of codes, numbers of the groups and how they spread (plain.h).");
}

}  // namespace qformat
