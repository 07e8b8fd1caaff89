// What the Python faces of codings that are decoded in strips share.
#pragma once

#include <memory>

#include "binding.h"
#include "strips.h"

namespace qformat {

// A matrix together with its coding's view, and with what keeps the memory of both alive.
struct StripMatrix {
    Strips view{};
    std::shared_ptr<const void> coded;
    Owners owners;
};

// `view` lacks only what is decoded.
template <class Coded>
StripMatrix in_strips(Coded coded, Strips view, Owners owners) {
    require(view.rows > 0 && view.inputs > 0, "an empty matrix has no kernel");
    auto held = std::make_shared<const Coded>(std::move(coded));
    view.coded = held.get();
    return {view, std::move(held), std::move(owners)};
}

}  // namespace qformat
