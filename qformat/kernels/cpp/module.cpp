// The Python face of the kernels: views are checked against their geometry here once more, then no size is checked again.
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdlib>

#include "binding.h"
#include "pool.h"
#include "products.h"

using namespace qformat;

namespace qformat {
void bind_additive(nb::module_& m);    // additive_module.cpp
void bind_lattice(nb::module_& m);     // lattice_module.cpp
void bind_plain(nb::module_& m);       // plain_module.cpp
void bind_plain_read(nb::module_& m);  // plain_read.cpp
void bind_sparse(nb::module_& m);      // sparse.cpp
void bind_split(nb::module_& m);       // split_module.cpp
void bind_strips(nb::module_& m);      // strips_module.cpp
void bind_trellis(nb::module_& m);     // trellis_module.cpp
}

namespace {

// Names of the instruction sets that this processor and operating system can run, as GCC's detection sees them.
std::vector<std::string> cpu_features() {
    std::vector<std::string> found;
#if defined(QFORMAT_X86)
    __builtin_cpu_init();
#define QFORMAT_FEATURE(name) \
    if (__builtin_cpu_supports(name)) found.emplace_back(name)
    QFORMAT_FEATURE("avx2");
    QFORMAT_FEATURE("fma");
    QFORMAT_FEATURE("bmi2");
    QFORMAT_FEATURE("avx512f");
    QFORMAT_FEATURE("avx512bw");
    QFORMAT_FEATURE("avx512vl");
    QFORMAT_FEATURE("avx512dq");
    QFORMAT_FEATURE("avx512cd");
    QFORMAT_FEATURE("avx512vnni");
    QFORMAT_FEATURE("avx512vbmi");
    QFORMAT_FEATURE("avx512bf16");
    QFORMAT_FEATURE("gfni");
    if (batch_amx()) found.emplace_back("amx-bf16");
#undef QFORMAT_FEATURE
#endif
    return found;
}

// The value of an environment variable, read where Python's own way takes ten times as long: it is asked for at every call.
std::optional<std::string> environment(const char* name) {
    const char* value = std::getenv(name);
    return value ? std::optional<std::string>(value) : std::nullopt;
}

const Kernels& kernels_of(const std::string& isa) {
    return kernels_for(isa, generic_kernels, QFORMAT_IF_X86(avx2_kernels), QFORMAT_IF_X86(avx512_kernels));
}

size_t columns(size_t inputs, int width) { return (inputs * static_cast<size_t>(width) + 31) / 32; }

// Bytes of a group's codes: runs of up to 64 inputs, each plane a whole number of columns of 16 dwords.
size_t code_bytes(size_t inputs, int bits) {
    size_t bytes = 0;
    for (size_t left = inputs; left;) {
        const size_t run = left < kRun ? left : kRun;
        for (int rest = bits; rest;) {
            const int width = rest & 8 ? 8 : rest & 4 ? 4 : rest & 2 ? 2 : 1;
            bytes += 64 * columns(run, width);
            rest -= width;
        }
        left -= run;
    }
    return bytes;
}

// A panel matrix together with what keeps its memory alive.
struct PanelMatrix {
    Panels view{};
    Owners owners;

    size_t panels() const { return (view.rows + kRows - 1) / kRows; }
    size_t groups() const { return (view.inputs + view.group - 1) / view.group; }
};

void make_panels(PanelMatrix* self, Bytes codes, size_t rows, size_t inputs, size_t group, int bits, int header_bytes, int zeros_at,
                 int scales, int zeros, int zero_bits, bool offsets, float bias, std::optional<Floats> scale_values,
                 std::optional<Floats> zero_values, std::optional<Floats> table) {
    require(rows > 0 && inputs > 0 && group > 0, "an empty matrix has no kernel");
    require(bits >= 1 && bits <= 8 && zero_bits >= 0 && zero_bits <= 8, "bits out of range");
    require(header_bytes >= 0 && header_bytes <= 256 && zeros_at >= 0 && zeros_at <= header_bytes, "header out of range");
    new (self) PanelMatrix();
    Panels& v = self->view;
    v.rows = rows, v.inputs = inputs, v.group = group, v.bits = bits, v.header_bytes = header_bytes, v.zeros_at = zeros_at;
    v.scales = static_cast<Value>(scales), v.zeros = static_cast<Value>(zeros), v.zero_bits = zero_bits, v.offsets = offsets, v.bias = bias;
    const size_t whole = inputs / group, rest = inputs % group;
    v.panel_bytes = whole * (static_cast<size_t>(header_bytes) + code_bytes(group, bits)) +
                    (rest ? static_cast<size_t>(header_bytes) + code_bytes(rest, bits) : 0);
    require(codes.size() / v.panel_bytes >= self->panels(), "the panels are longer than their extent");
    v.codes = codes.data();
    const size_t lanes = self->panels() * self->groups() * kRows;
    v.scale_values = data_of(self->owners, scale_values, lanes, "external scales have another shape");
    v.zero_values = data_of(self->owners, zero_values, lanes, "external zeros have another shape");
    v.table = data_of(self->owners, table, size_t{1} << bits, "a table has 2^bits entries");
    require((v.scales == Value::external) == (v.scale_values != nullptr), "external scales are missing");
    require((v.zeros == Value::external) == (v.zero_values != nullptr), "external zeros are missing");
    self->owners.push_back(nb::cast(codes));
}

// A mode beside those of the panels' kernels: bfloat16 activations, and entries of tables rounded to bfloat16.
constexpr int kRounded = 3;

// The kernels of an instruction set for more rows than the others read codes for at once; nullptr where there are none.
const BatchKernels* batch_kernels_of(const std::string& name) {
#if defined(QFORMAT_X86)
    if (name == "avx512") return batch_avx512();
    if (name == "amx") return batch_amx();
#endif
    return nullptr;
}

void matvec(const std::string& isa, const PanelMatrix& matrix, RowBytes x, int dtype, int mode, Out out) {
    const Kernels& kernels = kernels_of(isa);
    const Panels& m = matrix.view;
    const products::Input from{x.data(), float_type(dtype), x.shape(0)};
    require(x.shape(1) == m.inputs * size_of(from.kind) && out.shape(1) == m.rows && out.shape(0) == from.rows, "x or out has another shape");
    require(mode >= 0 && mode <= kRounded, "no such mode");
    const Mode use = mode == kRounded ? Mode::bfloat16 : static_cast<Mode>(mode);
    const bool rounds = mode == kRounded || !m.table;
    const BatchKernels* many = use == Mode::bfloat16 && rounds && from.rows > 8 ? batch_kernels_of(isa) : nullptr;
    const Panels* const one = &m;
    const products::Output to{reinterpret_cast<uint8_t*>(out.data()), Value::float32};
    float* y = out.data();
    nb::gil_scoped_release release;
    if (many) {
        products::many(*many, m, from, y);
    } else {
        products::few(kernels, {&one, 1}, use, from, {&to, 1});
    }
}

void matvecs(const std::string& isa, const std::vector<const PanelMatrix*>& matrices, uintptr_t x, size_t rows, int dtype, int mode,
             const std::vector<uintptr_t>& outs) {
    const Kernels& kernels = kernels_of(isa);
    const products::Input from{reinterpret_cast<const uint8_t*>(x), float_type(dtype), rows};
    require(mode >= 0 && mode < kRounded, "no such mode");
    require(!matrices.empty() && matrices.size() == outs.size(), "as many matrices as results, at least one");
    require(x != 0 && std::find(outs.begin(), outs.end(), uintptr_t{0}) == outs.end(), "x or a result has no memory");
    std::vector<const Panels*> views;
    std::vector<products::Output> to;
    for (size_t i = 0; i < matrices.size(); i++) {
        require(matrices[i] && matrices[i]->view.inputs == matrices[0]->view.inputs, "the matrices have other inputs");
        views.push_back(&matrices[i]->view);
        to.push_back({reinterpret_cast<uint8_t*>(outs[i]), from.kind});
    }
    nb::gil_scoped_release release;
    products::few(kernels, views, static_cast<Mode>(mode), from, to);
}

void decode(const std::string& isa, const PanelMatrix& matrix, size_t first, size_t last, int dtype, OutBytes out) {
    const Kernels& kernels = kernels_of(isa);
    const Panels& m = matrix.view;
    const Value kind = float_type(dtype);
    require(first <= last && last <= matrix.panels(), "panels out of range");
    const size_t rows = std::min(last * kRows, m.rows) - std::min(first * kRows, m.rows), size = size_of(kind);
    require(out.size() == rows * m.inputs * size, "out has another size");
    uint8_t* to = out.data();
    const bool stream = out.size() > kCached;
    nb::gil_scoped_release release;
    pool::run(last - first, 1, [&](size_t from, size_t until) {
        kernels.decode(m, first + from, first + until, kind, stream, to + from * kRows * m.inputs * size);
    });
}

void matvec_dense(const std::string& isa, Bytes values, size_t rows, size_t inputs, int dtype, Rows x, Out out) {
    const Kernels& kernels = kernels_of(isa);
    const Value kind = float_type(dtype);
    require(values.size() / size_of(kind) >= rows * inputs, "the values are longer than their extent");
    require(x.shape(1) == inputs && out.shape(1) == rows && out.shape(0) == x.shape(0), "x or out has another shape");
    const Dense m{values.data(), rows, inputs, kind};
    const float* from = x.data();
    float* to = out.data();
    const int batch = static_cast<int>(x.shape(0));
    nb::gil_scoped_release release;
    pool::run(rows, 16, [&](size_t first, size_t last) { kernels.matvec_dense(m, from, batch, first, last, to, rows); });
}

}  // namespace

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);  // a worker that ends with a weight in its hands has done nothing wrong
    m.doc() = "Kernels of qformat; every function takes arrays that Python has checked.";
    m.def("cpu_features", &cpu_features, "Names of the instruction sets that this processor can run.");
    m.def("environment", &environment, nb::arg("name"), "The value of an environment variable, None if it is not set.");
    m.def("set_threads", &pool::set_threads, nb::arg("count"), "Threads of a kernel call; 0 is one per core.");
    m.def("threads", &pool::threads, "Threads of a kernel call.");
    m.def("share_openmp", &pool::share_openmp, "Run on the threads of the OpenMP runtime in this process; whether there is one.");
    nb::class_<PanelMatrix>(m, "Panels", "A matrix in the panel layout: views of an extent, checked against its length.")
        .def("__init__", &make_panels, nb::arg("codes"), nb::arg("rows"), nb::arg("inputs"), nb::arg("group"), nb::arg("bits"),
             nb::arg("header_bytes"), nb::arg("zeros_at"), nb::arg("scales"), nb::arg("zeros"), nb::arg("zero_bits"), nb::arg("offsets"),
             nb::arg("bias"), nb::arg("scale_values").none(), nb::arg("zero_values").none(), nb::arg("table").none());
    m.def("matvec", &matvec, nb::arg("isa"), nb::arg("matrix"), nb::arg("x"), nb::arg("dtype"), nb::arg("mode"), nb::arg("out"),
          "out (batch, rows) = x (batch, inputs), as bytes of a float type, · matrixᵀ; mode 0 int8, 1 float32, 2 bfloat16 activations, 3 with "
          "bfloat16 tables.");
    m.def("matvecs", &matvecs, nb::arg("isa"), nb::arg("matrices"), nb::arg("x"), nb::arg("rows"), nb::arg("dtype"), nb::arg("mode"),
          nb::arg("outs"),
          "Each out (rows, out_features) = x (rows, inputs) · its matrixᵀ, modes 0 to 2 of `matvec`; x and outs are addresses of row-major "
          "memory of one float type, which the caller keeps alive.");
    m.def("matvec_dense", &matvec_dense, nb::arg("isa"), nb::arg("values"), nb::arg("rows"), nb::arg("inputs"), nb::arg("dtype"),
          nb::arg("x"), nb::arg("out"), "out (batch, rows) = x (batch, inputs) · valuesᵀ for a row-major matrix of floats.");
    m.def("decode", &decode, nb::arg("isa"), nb::arg("matrix"), nb::arg("first"), nb::arg("last"), nb::arg("dtype"), nb::arg("out"),
          "Panels [first, last) as rows of floats, written to `out` as bytes.");
    bind_additive(m);
    bind_plain_read(m);
    bind_sparse(m);
    bind_strips(m);
    bind_lattice(m);
    bind_trellis(m);
    bind_split(m);
    bind_plain(m);
}
