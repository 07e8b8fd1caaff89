// The Python face of trellises: a view that is checked against the length of its extent.
#include "trellis.h"

#include "strips_binding.h"

namespace qformat {
namespace {

// Rows and places of a tile's inputs, from the place of each of its weights along the steps.
void arrange(Trellis& v, const uint8_t* places) {
    uint8_t held[kTile / kPlaces] = {};  // rows that have been found at places 32·i …
    for (size_t row = 0; row < kSide; row++) {
        const uint8_t* its = places + row * kSide;
        const size_t at = its[0] / kPlaces, half = held[at]++;
        require(half < 2, "more than two rows lie together");
        v.rows[at][half] = static_cast<uint8_t>(row);
        for (size_t i = 0; i < kSide; i++) {
            const auto within = static_cast<uint16_t>(its[i] % kPlaces);
            require(its[i] / kPlaces == at, "a row does not lie together");
            require(at == 0 || v.within[half][i] == within, "rows do not lie alike");
            require(within % 2 == i % 2 && within / 2 == its[i & ~size_t{1}] % kPlaces / 2, "inputs do not lie in pairs");
            v.within[half][i] = within;
        }
    }
}

StripMatrix make(Bytes codes, size_t rows, size_t inputs, int bits, int vector, int function, Bytes places, Floats table,
                 int table_bits, bool normal) {
    require(bits >= 1 && bits <= 8 && vector >= 1 && vector <= 2, "bits or vector out of range");
    require(function >= 0 && function <= static_cast<int>(StateFunction::quantlut_sym), "no such function");
    require(rows > 0 && inputs > 0 && inputs < size_t{1} << 48, "inputs out of range");
    require(places.size() == kTile, "the order has another length");
    Trellis v{};
    v.across = (inputs + kSide - 1) / kSide;
    v.width = bits * vector, v.vector = vector, v.function = static_cast<StateFunction>(function);
    arrange(v, places.data());
    require(codes.size() / v.tile_bytes() / v.across >= (rows + kSide - 1) / kSide, "the codes are longer than their extent");
    v.codes = codes.data();
    const bool stored = v.function >= StateFunction::lut;
    const int most = v.function == StateFunction::quantlut_sym ? 15 : 16;
    require(stored ? table_bits >= 1 && table_bits <= most : vector == 1 && table_bits == kStateBits, "table_bits or vector out of range");
    v.table_bits = table_bits;
    Owners owners;
    v.table = data_of(owners, std::optional(table), static_cast<size_t>(vector) << table_bits, "the table has another shape");
    owners.push_back(nb::cast(codes));
    const Strips view{nullptr, {trellis_generic, QFORMAT_IF_X86(trellis_avx2), QFORMAT_IF_X86(trellis_avx512)}, rows, inputs, kSide, kSide, normal};
    return in_strips(v, view, std::move(owners));
}

}  // namespace

void bind_trellis(nb::module_& m) {
    m.def("trellis", &make, nb::arg("codes"), nb::arg("rows"), nb::arg("inputs"), nb::arg("bits"), nb::arg("vector"), nb::arg("function"),
          nb::arg("places"), nb::arg("table"), nb::arg("table_bits"), nb::arg("normal"),
          "Tiles of windows of a bit stream; places: of each weight of a tile along the steps; functions in the order of trellis.h.");
}

}  // namespace qformat
