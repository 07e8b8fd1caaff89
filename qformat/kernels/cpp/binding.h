// What the Python faces of the kernels share: arrays as they come, checks, and the choice of an instruction set.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels.h"

namespace qformat {

namespace nb = nanobind;

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using RowBytes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutBytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Bytes of a result that its reader still finds in the cache; longer ones are written past it.
constexpr size_t kCached = size_t{16} << 20;

inline void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

inline Value float_type(int number) {
    const Value kind = static_cast<Value>(number);
    require(kind == Value::float16 || kind == Value::bfloat16 || kind == Value::float32, "no such float type");
    return kind;
}

inline size_t size_of(Value kind) { return kind == Value::float32 ? 4 : 2; }

// What keeps the memory of a view alive.
using Owners = std::vector<nb::object>;

// The data of an array of `count` numbers, which `owners` then hold; nullptr for none.
template <class Array>
auto data_of(Owners& owners, const std::optional<Array>& array, size_t count, const char* message) -> decltype(array->data()) {
    if (!array) return nullptr;
    require(array->size() == count, message);
    owners.push_back(nb::cast(*array));
    return array->data();
}

#if defined(QFORMAT_X86)
#define QFORMAT_IF_X86(kernels) kernels
#else
#define QFORMAT_IF_X86(kernels) nullptr
#endif

// The kernels of an instruction set that Python has found to be available. `amx` is avx512 with other products of many rows.
template <class Table>
const Table& kernels_for(const std::string& isa, const Table* (*generic)(), std::type_identity_t<const Table* (*)()> avx2,
                         std::type_identity_t<const Table* (*)()> avx512) {
    if (isa == "generic") return *generic();
#if defined(QFORMAT_X86)
    if (isa == "avx2" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return *avx2();
    if ((isa == "avx512" || isa == "amx") && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("gfni")) return *avx512();
#endif
    (void)avx2, (void)avx512;
    throw std::invalid_argument("no such instruction set here: " + isa);
}

}  // namespace qformat
