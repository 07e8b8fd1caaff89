// The Python face of additive codes: a view that is checked against the length of its extent, products, decoding.
#include "additive.h"

#include "binding.h"
#include "pool.h"
#include "stream.h"

namespace qformat {
namespace {

using Pairs = nb::ndarray<const uint32_t, nb::c_contig, nb::device::cpu>;

const AdditiveKernels& kernels_of(const std::string& isa) {
    return kernels_for(isa, additive_generic, QFORMAT_IF_X86(additive_avx2), QFORMAT_IF_X86(additive_avx512));
}

// A matrix together with what keeps its memory alive.
struct Matrix {
    Additive view{};
    Owners owners;
};

void make(Matrix* self, Bytes codes, size_t rows, size_t groups, int books, int bits, int width, Floats books_by_entry,
          std::optional<Floats> books_by_input, std::optional<Pairs> pairs_by_input, float unit, bool normal,
          std::optional<Floats> scales) {
    require(rows > 0 && groups > 0, "an empty matrix has no kernel");
    require(books >= 1 && books <= 64 && width >= 1 && width <= 4096, "books or width out of range");
    require(bits == 4 || bits == 8 || bits == 16, "these codes have no kernel");
    new (self) Matrix();
    Additive& v = self->view;
    v.rows = rows, v.groups = groups, v.books = books, v.bits = bits, v.width = width;
    require(codes.size() / v.panel_bytes() >= v.panels(), "the panels are longer than their extent");
    const size_t entries = static_cast<size_t>(books) * static_cast<size_t>(width) << bits;
    v.codes = codes.data();
    v.books_by_entry = data_of(self->owners, std::optional(books_by_entry), entries, "the books have another shape");
    v.books_by_input = data_of(self->owners, books_by_input, entries, "the books have another shape");
    v.pairs_by_input = data_of(self->owners, pairs_by_input, static_cast<size_t>(books) * v.segments() * (kSegment / 2) << bits,
                               "the books as integers have another shape");
    v.unit = unit, v.normal = normal;
    v.scales = data_of(self->owners, scales, v.panels() * kLanes, "the scales have another shape");
    require(bits == 16 || (v.books_by_input && v.pairs_by_input), "the books by input are missing");
    self->owners.push_back(nb::cast(codes));
}

// Inputs are cut into so many slices, whose sums are added in the end: a number that does not depend on the threads, or results
// would. Threads that take different slices share no tables.
constexpr size_t kSlices = 2;

// Room kept per thread, from a line of the cache on: a layer needs no allocation after its first call.
template <class T>
class Room {
public:
    T* of(size_t size) {
        constexpr size_t line = 64 / sizeof(T);
        if (kept_.size() < size + line) kept_.resize(size + line);
        return kept_.data() + (line - reinterpret_cast<uintptr_t>(kept_.data()) / sizeof(T) % line) % line;
    }

private:
    std::vector<T> kept_;
};

// Up to kBatch rows of x.
void matvec_rows(const AdditiveKernels& kernels, const Additive& m, bool exact, const float* x, size_t batch, float* y) {
    thread_local Room<float> kept;
    const size_t slices = std::min(kSlices, m.blocks()), panels = m.panels(), slice = batch * panels * kLanes;
    float* sums = kept.of(slices * slice);
    const size_t enough = (panels * m.panel_bytes() * batch >> 17) + 1;
    const size_t threads = std::min(enough, static_cast<size_t>(pool::threads()));
    const size_t runs = (threads + slices - 1) / slices, each = (panels + 8 * runs - 1) / (8 * runs) * 8;
    const size_t parts = (panels + each - 1) / each * slices;
    pool::run(parts, threads > 1 ? 1 : parts, [&](size_t first, size_t last) {
        thread_local Room<float> floats, own;
        thread_local Room<uint8_t> bytes;
        for (size_t i = first; i < last; i++) {
            const size_t s = i % slices, top = i / slices * each;
            const Part part{s * m.blocks() / slices, (s + 1) * m.blocks() / slices, top, std::min(top + each, panels)};
            float *all = sums + s * slice, *to = threads > 1 ? own.of(slice) : all;
            if (exact) {
                kernels.sum_exact(m, x, static_cast<int>(batch), part, floats.of(kTableFloats), to);
            } else {
                kernels.sum_bytes(m, x, static_cast<int>(batch), part, bytes.of(kTableBytes * batch), to);
            }
            if (to == all) continue;
            for (size_t b = 0; b < batch; b++) {  // another thread may add them up
                const size_t from = (b * panels + part.first_panel) * kLanes, until = (b * panels + part.last_panel) * kLanes;
                stream(lines_of(to + from, to + until), lines_of(all + from, all + until));
            }
        }
    });
    kernels.finish(m, exact, static_cast<int>(batch), slices, sums, y);
}

void matvec(const std::string& isa, const Matrix& matrix, Rows x, bool exact, Out out) {
    const AdditiveKernels& kernels = kernels_of(isa);
    const Additive& m = matrix.view;
    const size_t inputs = m.groups * static_cast<size_t>(m.width), batch = x.shape(0);
    require(x.shape(1) == inputs && out.shape(1) == m.rows && out.shape(0) == batch, "x or out has another shape");
    const float* from = x.data();
    float* to = out.data();
    nb::gil_scoped_release release;
    if (m.bits == 16) {
        const size_t grain = std::max<size_t>(1, (size_t{1} << 17) / m.panel_bytes());
        for (size_t row = 0; row < batch; row++)
            pool::run(m.panels(), grain,
                      [&](size_t first, size_t last) { kernels.matvec_wide(m, from + row * inputs, first, last, to + row * m.rows); });
        return;
    }
    for (size_t row = 0; row < batch; row += kBatch)
        matvec_rows(kernels, m, exact, from + row * inputs, std::min<size_t>(kBatch, batch - row), to + row * m.rows);
}

void decode(const std::string& isa, const Matrix& matrix, size_t first, size_t last, int dtype, OutBytes out) {
    const AdditiveKernels& kernels = kernels_of(isa);
    const Additive& m = matrix.view;
    const Value kind = float_type(dtype);
    require(first <= last && last <= m.rows, "rows out of range");
    const size_t row = m.groups * static_cast<size_t>(m.width) * size_of(kind);
    require(out.size() == (last - first) * row, "out has another size");
    uint8_t* to = out.data();
    const bool stream = out.size() > kCached;
    nb::gil_scoped_release release;
    const size_t top = first / kLanes, bottom = (last + kLanes - 1) / kLanes;
    pool::run(bottom - top, 1, [&](size_t begin, size_t end) {
        const size_t from = std::max(first, (top + begin) * kLanes), until = std::min(last, (top + end) * kLanes);
        kernels.decode(m, from, until, kind, stream, to + (from - first) * row);
    });
}

}  // namespace

void bind_additive(nb::module_& m) {
    nb::class_<Matrix>(m, "Additive", "Additive codes in the panel layout: a view of an extent, checked against its length.")
        .def("__init__", &make, nb::arg("codes"), nb::arg("rows"), nb::arg("groups"), nb::arg("books"), nb::arg("bits"), nb::arg("width"),
             nb::arg("books_by_entry"), nb::arg("books_by_input").none(), nb::arg("pairs_by_input").none(), nb::arg("unit"), nb::arg("normal"),
             nb::arg("scales").none());
    m.def("matvec_additive", &matvec, nb::arg("isa"), nb::arg("matrix"), nb::arg("x"), nb::arg("exact"), nb::arg("out"),
          "out (batch, rows) = x (batch, inputs) · matrixᵀ from tables of partial products, in bytes unless `exact`.");
    m.def("decode_additive", &decode, nb::arg("isa"), nb::arg("matrix"), nb::arg("first"), nb::arg("last"), nb::arg("dtype"),
          nb::arg("out"), "Rows [first, last) as floats, written to `out` as bytes.");
}

}  // namespace qformat
