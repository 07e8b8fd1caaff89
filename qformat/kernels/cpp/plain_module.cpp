// The Python face of affine, lookup and additive codes in the plain layout: views that are checked against the length of their
// codes.
#include "plain.h"

#include <algorithm>

#include "strips_binding.h"

namespace qformat {
namespace {

using Indices = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr size_t kMost = size_t{1} << 48;  // of whatever is counted

// Numbers of groups that the weights of a view have.
size_t numbers_of(const Grouping& g, size_t rows, size_t inputs) {
    switch (g.spread) {
        case Spread::blocks: return ((g.first + rows - 1) / g.high + 1) * g.across;
        case Spread::flat: return (g.first + rows * inputs - 1) / g.size + 1;
        case Spread::comb: return std::min(g.size, g.first + rows * inputs);
        default: return rows * g.size;
    }
}

// The stream of codes of a view that has nothing else yet.
Plain stream_of(Owners& owners, const Bytes& codes, size_t skip, size_t count, size_t inputs, int bits) {
    require(skip < 8, "more codes are skipped than belong to the first bytes");
    require(codes.size() >= ((skip + count) * static_cast<size_t>(bits) + 7) / 8, "the codes are longer than their extent");
    owners.push_back(nb::cast(codes));
    return {codes.data(), codes.size(), skip, inputs, bits, 0.0f, nullptr, 0, {}, nullptr, nullptr, nullptr, -0.0f};
}

void check_size(size_t rows, size_t inputs) {
    require(rows > 0 && inputs > 0 && inputs <= kMost / rows, "a matrix that is empty or too large has no kernel");
}

// Sets the grouping, and says how many numbers it has.
size_t group(Plain& v, Owners& owners, size_t rows, int spread, size_t size, size_t high, size_t first, const std::optional<Indices>& groups) {
    require(spread >= 0 && spread <= 3 && size > 0 && size <= kMost && high > 0 && high <= kMost && first <= kMost, "groups out of range");
    v.group = {static_cast<Spread>(spread), size, high, (v.inputs + size - 1) / size, first, nullptr};
    require(v.group.spread != Spread::comb || first < size, "groups out of range");
    require((v.group.spread == Spread::map) == groups.has_value(), "only a map has groups by column");
    v.group.groups = data_of(owners, groups, v.inputs, "the groups have another shape");
    for (size_t i = 0; groups && i < v.inputs; i++) require(v.group.groups[i] < size, "a group does not exist");
    return numbers_of(v.group, rows, v.inputs);
}

StripMatrix make(size_t rows, size_t inputs, Bytes codes, size_t skip, int bits, float bias, std::optional<Floats> table, int spread,
                 size_t size, size_t high, size_t first, std::optional<Indices> groups, std::optional<Floats> scales,
                 std::optional<Floats> minus, std::optional<Floats> plus, float offset, bool normal) {
    check_size(rows, inputs);
    require(bits >= 1 && bits <= 8, "bits out of range");
    Owners owners;
    Plain v = stream_of(owners, codes, skip, rows * inputs, inputs, bits);
    v.bias = bias, v.offset = offset;
    if (table) {
        const size_t entries = size_t{1} << bits;
        v.table_step = table->size() == entries ? 0 : entries;
        v.table = data_of(owners, table, v.table_step ? rows * entries : entries, "a table has 2^bits entries");
    }
    const size_t count = group(v, owners, rows, spread, size, high, first, groups);
    v.scales = data_of(owners, scales, count, "the scales have another shape");
    v.minus = data_of(owners, minus, count, "the zeros have another shape");
    v.plus = data_of(owners, plus, count, "the offsets have another shape");
    const Strips view{nullptr, {plain_generic, QFORMAT_IF_X86(plain_avx2), QFORMAT_IF_X86(plain_avx512)}, rows, inputs, 1, 1, normal};
    return in_strips(v, view, std::move(owners));
}

StripMatrix make_sums(size_t rows, size_t inputs, Bytes codes, size_t skip, int bits, size_t count, size_t block_rows, size_t wide, Floats books,
                      int spread, size_t size, size_t high, size_t first, std::optional<Indices> groups, std::optional<Floats> scales,
                      bool normal) {
    check_size(rows, inputs);
    require(bits >= 1 && bits <= 16, "bits out of range");
    require(count >= 1 && count <= kMostBooks && wide >= 1 && block_rows >= 1 && block_rows <= kMostWide / wide, "books or blocks out of range");
    require(inputs % wide == 0, "blocks do not fill the rows");
    Owners owners;
    const size_t blocks = (rows + block_rows - 1) / block_rows * (inputs / wide);
    require(blocks <= kMost / count, "a matrix that is empty or too large has no kernel");
    Sums v{stream_of(owners, codes, skip, blocks * count, inputs, bits), count, block_rows, wide, nullptr};
    v.books = data_of(owners, std::optional(books), (count << bits) * block_rows * wide + 15, "the books have another shape");
    v.scales = data_of(owners, scales, group(v, owners, rows, spread, size, high, first, groups), "the scales have another shape");
    const Strips view{nullptr, {sums_generic, QFORMAT_IF_X86(sums_avx2), QFORMAT_IF_X86(sums_avx512)}, rows, inputs, block_rows, wide, normal};
    return in_strips(v, view, std::move(owners));
}

}  // namespace

void bind_plain(nb::module_& m) {
    m.def("plain", &make, nb::arg("rows"), nb::arg("inputs"), nb::arg("codes"), nb::arg("skip"), nb::arg("bits"), nb::arg("bias"),
          nb::arg("table").none(), nb::arg("spread"), nb::arg("size"), nb::arg("high"), nb::arg("first"), nb::arg("groups").none(),
          nb::arg("scales").none(), nb::arg("minus").none(), nb::arg("plus").none(), nb::arg("offset"), nb::arg("normal"),
          "Affine or lookup codes in the plain layout: a stream of codes, numbers of the groups and how they spread (plain.h).");
    m.def("sums", &make_sums, nb::arg("rows"), nb::arg("inputs"), nb::arg("codes"), nb::arg("skip"), nb::arg("bits"), nb::arg("count"),
          nb::arg("block_rows"), nb::arg("wide"), nb::arg("books"), nb::arg("spread"), nb::arg("size"), nb::arg("high"), nb::arg("first"),
          nb::arg("groups").none(), nb::arg("scales").none(), nb::arg("normal"),
          "Additive codes in the plain layout: a stream of codes, books with 15 more floats, scales of the groups and how they spread.");
}

}  // namespace qformat
