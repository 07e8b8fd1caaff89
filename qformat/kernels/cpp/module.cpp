// The Python face of the kernels: views are checked against their geometry here once more, then no size is checked again.
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdlib>

#include "batch.h"
#include "binding.h"
#include "pool.h"

using namespace qformat;

namespace qformat {
void bind_additive(nb::module_& m);    // additive_module.cpp
void bind_plain_read(nb::module_& m);  // plain_read.cpp
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

// Scratch of one call, kept per thread: a layer needs no allocation after its first call.
struct Scratch {
    std::vector<int8_t> codes;
    std::vector<float> scales, sums, totals, values, out;
    std::vector<uint16_t> pairs;
};

size_t runs_of(const Panels& m) {
    const size_t per_group = (m.group + kRun - 1) / kRun, rest = m.inputs % m.group;
    return m.inputs / m.group * per_group + (rest + kRun - 1) / kRun;
}

// `__builtin_prefetch` asks for writing only where the compiler knows the processor; x86 without the instruction ignores it.
template <bool WRITING>
void prefetch(const void* line) {
#if defined(QFORMAT_X86)
    if (WRITING) {
        asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(line)));
        return;
    }
#endif
    __builtin_prefetch(line, WRITING);
}

// Asks for every line of the activations at once. They were last touched on other cores, whose caches answer slowly to a
// thread that asks for one line after the other: on two core complexes that cost 6 µs for 4096 inputs, and 30 for 14336.
template <bool WRITING>
void fetch(const Activations& a, size_t slots, size_t totals) {
    const auto lines = [](const void* from, size_t bytes) {
        for (size_t at = 0; from && at < bytes; at += 64) prefetch<WRITING>(static_cast<const char*>(from) + at);
    };
    lines(a.totals, totals * sizeof *a.totals);
    lines(a.scales, slots * sizeof *a.scales);
    lines(a.sums, slots * sizeof *a.sums);
    lines(a.codes, slots * kRun);
    lines(a.pairs, slots * kRun * sizeof *a.pairs);
    lines(a.values, slots * kRun * sizeof *a.values);
}

// Up to 8 rows of x against the whole matrix.
void matvec_rows(const Kernels& kernels, const Panels& m, Mode mode, const uint8_t* x, Value dtype, int rows, float* out) {
    thread_local Scratch scratch;
    Activations a{};
    a.batch = rows == 1 ? 1 : rows <= 4 ? 4 : 8;
    a.rows = rows;
    a.runs = runs_of(m);
    const PanelKernel kernel = kernels.matvec(m, mode, a.batch);
    const size_t slots = a.runs * static_cast<size_t>(a.batch), panels = (m.rows + kRows - 1) / kRows, stride = panels * kRows;
    scratch.totals.resize((m.inputs + m.group - 1) / m.group * static_cast<size_t>(a.batch));
    a.totals = scratch.totals.data();
    if (mode == Mode::int8) {
        scratch.codes.resize(slots * kRun);
        scratch.scales.resize(slots);
        scratch.sums.resize(slots);
        a.codes = scratch.codes.data(), a.scales = scratch.scales.data(), a.sums = scratch.sums.data();
    } else if (mode == Mode::bfloat16) {
        scratch.pairs.resize(slots * kRun);
        a.pairs = scratch.pairs.data();
    } else {
        scratch.values.resize(slots * kRun);
        a.values = scratch.values.data();
    }
    scratch.out.resize(static_cast<size_t>(a.batch) * stride);
    float* y = scratch.out.data();
    const size_t totals = scratch.totals.size();
    fetch<true>(a, slots, totals);
    kernels.prepare(x, dtype, m.inputs, m.group, mode, a);
    const size_t grain = std::max<size_t>(1, (size_t{1} << 15) / std::max<size_t>(1, m.panel_bytes));
    pool::run(panels, grain, [&](size_t first, size_t last) {
        fetch<false>(a, slots, totals);
        kernel(m, a, first, last, y, stride);
    });
    for (int row = 0; row < rows; row++) std::copy_n(y + static_cast<size_t>(row) * stride, m.rows, out + static_cast<size_t>(row) * m.rows);
}

// A mode beside those of the panels' kernels: bfloat16 activations, and entries of tables rounded to bfloat16.
constexpr int kRounded = 3;

// The kernels of an instruction set for more rows than the others read codes for at once; nullptr where there are none.
const BatchKernels* batch_kernels_of(const std::string& name) {
#if defined(QFORMAT_X86)
    if (name == "avx512") return batch_avx512();
#endif
    return nullptr;
}

// Up to kBatch rows of x against the whole matrix.
void batch_rows(const BatchKernels& kernels, const Panels& m, const uint8_t* x, Value kind, size_t rows, float* out) {
    thread_local Scratch scratch;
    Batch batch{std::max<size_t>(16, (rows + 7) / 8 * 8), runs_of(m), nullptr, nullptr};
    const size_t panels = (m.rows + kRows - 1) / kRows, stride = panels * kRows;
    scratch.pairs.resize(batch.rows * batch.runs * kRun);
    scratch.totals.resize(batch.rows * chunks_of(m.inputs, m.group));
    batch.pairs = reinterpret_cast<uint32_t*>(scratch.pairs.data()), batch.totals = scratch.totals.data();
    pool::run(batch.blocks(), 1, [&](size_t first, size_t last) { kernels.prepare(x, kind, rows, m.inputs, m.group, first, last, batch); });
    if (rows == batch.rows && stride == m.rows) {
        pool::run(panels, 1, [&](size_t first, size_t last) { kernels.product(m, batch, first, last, out, stride); });
        return;
    }
    scratch.out.resize(batch.rows * stride);
    float* y = scratch.out.data();
    pool::run(panels, 1, [&](size_t first, size_t last) { kernels.product(m, batch, first, last, y, stride); });
    for (size_t row = 0; row < rows; row++) std::copy_n(y + row * stride, m.rows, out + row * m.rows);
}

void matvec(const std::string& isa, const PanelMatrix& matrix, RowBytes x, int dtype, int mode, Out out) {
    const Kernels& kernels = kernels_of(isa);
    const Panels& m = matrix.view;
    const Value kind = float_type(dtype);
    const size_t row_bytes = m.inputs * size_of(kind);
    require(x.shape(1) == row_bytes && out.shape(1) == m.rows && out.shape(0) == x.shape(0), "x or out has another shape");
    require(mode >= 0 && mode <= kRounded, "no such mode");
    Mode use = mode == kRounded ? Mode::bfloat16 : static_cast<Mode>(mode);
    const bool rounds = mode == kRounded || !m.table;
    const BatchKernels* many = use == Mode::bfloat16 && rounds && x.shape(0) > 8 ? batch_kernels_of(isa) : nullptr;
    if (!kernels.matvec(m, use, 1)) use = Mode::float32;  // always there, never less exact
    const uint8_t* from = x.data();
    float* to = out.data();
    const size_t batch = x.shape(0);
    nb::gil_scoped_release release;
    if (many) {
        const size_t parts = (batch + kBatch - 1) / kBatch, step = ((batch + parts - 1) / parts + 7) / 8 * 8;
        for (size_t row = 0; row < batch; row += step) batch_rows(*many, m, from + row * row_bytes, kind, std::min(step, batch - row), to + row * m.rows);
        return;
    }
    for (size_t row = 0; row < batch; row += 8)
        matvec_rows(kernels, m, use, from + row * row_bytes, kind, static_cast<int>(std::min<size_t>(8, batch - row)), to + row * m.rows);
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
    m.def("matvec_dense", &matvec_dense, nb::arg("isa"), nb::arg("values"), nb::arg("rows"), nb::arg("inputs"), nb::arg("dtype"),
          nb::arg("x"), nb::arg("out"), "out (batch, rows) = x (batch, inputs) · valuesᵀ for a row-major matrix of floats.");
    m.def("decode", &decode, nb::arg("isa"), nb::arg("matrix"), nb::arg("first"), nb::arg("last"), nb::arg("dtype"), nb::arg("out"),
          "Panels [first, last) as rows of floats, written to `out` as bytes.");
    bind_additive(m);
    bind_plain_read(m);
}
