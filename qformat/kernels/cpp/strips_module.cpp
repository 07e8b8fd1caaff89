// The Python face of what is decoded in strips: products and decoding, whatever the coding.
#include "strips_binding.h"

#include <cstring>

#include "pool.h"

namespace qformat {
namespace {

constexpr size_t kMost = 64;                 // rows of x that share what is decoded, and of which each thread keeps sums
constexpr size_t kEnough = size_t{1} << 14;  // weights that are worth handing to a thread

const StripKernels& kernels_of(const std::string& isa) {
    return kernels_for(isa, strips_generic, QFORMAT_IF_X86(strips_avx2), QFORMAT_IF_X86(strips_avx512));
}

// Decodes rows [first, last), one piece after the other, to room of this thread; use(piece, its first row and input).
template <class Use>
void each_piece(const Strips& m, Isa isa, size_t first, size_t last, const Use& use) {
    thread_local std::vector<Line> room;
    const size_t high = m.piece_rows(), wide = m.piece_inputs(), stride = (wide + 15) / 16 * 16;
    room.resize(std::max(room.size(), high * stride / 16));
    float* const weights = reinterpret_cast<float*>(room.data());
    for (size_t from = first, until; from < last; from = until) {
        until = std::min((from / high + 1) * high, last);
        const size_t top = from / m.height * m.height, bottom = std::min((until + m.height - 1) / m.height * m.height, m.rows);
        for (size_t left = 0; left < m.inputs; left += wide) {
            const Rectangle r{top, bottom, left, std::min(left + wide, m.inputs)};
            m.decode[static_cast<int>(isa)](m.coded, r, weights, stride);
            use(Piece{weights + (from - top) * stride, until - from, r.right - left, stride}, from, left);
        }
    }
}

// Rows of x, each from a line on and not as far apart as makes them meet in the cache.
struct Inputs {
    const float* first;
    size_t stride;
};

Inputs in_lines(const float* x, size_t rows, size_t inputs, std::vector<Line>& room) {
    const size_t lines = (inputs + 15) / 16 + 1;
    room.resize(std::max(room.size(), rows * lines));
    for (size_t row = 0; row < rows; row++) std::memcpy(room.data() + row * lines, x + row * inputs, 4 * inputs);
    return {reinterpret_cast<const float*>(room.data()), 16 * lines};
}

size_t grain_of(const Strips& m) { return std::max<size_t>(1, kEnough / (m.piece_rows() * m.inputs)); }

// Up to kMost rows of x.
void matvec_rows(const StripKernels& kernels, const Strips& m, const float* x, size_t batch, float* y) {
    thread_local std::vector<Line> room;
    const Inputs from = in_lines(x, batch, m.inputs, room);
    pool::run(m.pieces_down(), grain_of(m), [&](size_t first, size_t last) {
        thread_local std::vector<Line> sums;
        sums.resize(std::max(sums.size(), m.piece_rows() * batch));
        each_piece(m, kernels.isa, first * m.piece_rows(), std::min(last * m.piece_rows(), m.rows), [&](const Piece& piece, size_t row, size_t left) {
            kernels.multiply(piece, from.first + left, from.stride, batch, left > 0, sums.data());
            if (left + piece.inputs == m.inputs) kernels.finish(sums.data(), piece.rows, batch, y + row, m.rows);
        });
    });
}

void matvec(const std::string& isa, const StripMatrix& matrix, Rows x, Out out) {
    const StripKernels& kernels = kernels_of(isa);
    const Strips& m = matrix.view;
    const size_t batch = x.shape(0);
    require(x.shape(1) == m.inputs && out.shape(1) == m.rows && out.shape(0) == batch, "x or out has another shape");
    const float* from = x.data();
    float* y = out.data();
    nb::gil_scoped_release release;
    for (size_t row = 0; row < batch; row += kMost)
        matvec_rows(kernels, m, from + row * m.inputs, std::min(kMost, batch - row), y + row * m.rows);
}

void decode(const std::string& isa, const StripMatrix& matrix, size_t first, size_t last, int dtype, OutBytes out) {
    const StripKernels& kernels = kernels_of(isa);
    const Strips& m = matrix.view;
    const Value kind = float_type(dtype);
    require(first <= last && last <= m.rows, "rows out of range");
    const size_t size = size_of(kind), stride = m.inputs * size, high = m.piece_rows();
    require(out.size() == (last - first) * stride, "out has another size");
    uint8_t* to = out.data();
    const bool lines = reinterpret_cast<uintptr_t>(to) % 64 == 0 && stride % 64 == 0 && m.piece_inputs() * size % 64 == 0;
    const bool stream = lines && out.size() > kCached;
    const size_t start = first / high;
    nb::gil_scoped_release release;
    pool::run((last + high - 1) / high - start, grain_of(m), [&](size_t from, size_t until) {
        const size_t top = std::max(first, (start + from) * high), bottom = std::min(last, (start + until) * high);
        each_piece(m, kernels.isa, top, bottom, [&](const Piece& piece, size_t row, size_t left) {
            kernels.store(piece, kind, stream, m.normal, to + (row - first) * stride + left * size, stride);
        });
        if (stream) kernels.fence();
    });
}

}  // namespace

void bind_strips(nb::module_& m) {
    nb::class_<StripMatrix>(m, "Strips", "A matrix that is decoded before it is multiplied: views of an extent, checked against its length.")
        .def_prop_ro("height", [](const StripMatrix& matrix) { return matrix.view.height; }, "Rows that are decoded together.");
    m.def("matvec_strips", &matvec, nb::arg("isa"), nb::arg("matrix"), nb::arg("x"), nb::arg("out"),
          "out (batch, rows) = x (batch, inputs) · matrixᵀ, in float32.");
    m.def("decode_strips", &decode, nb::arg("isa"), nb::arg("matrix"), nb::arg("first"), nb::arg("last"), nb::arg("dtype"), nb::arg("out"),
          "Rows [first, last) as floats, written to `out` as bytes.");
}

}  // namespace qformat
