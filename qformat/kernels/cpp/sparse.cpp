// Products with sparse matrices in compressed rows, which corrections add to those of codes.
#include "binding.h"
#include "pool.h"

namespace qformat {
namespace {

using Indices = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr size_t kGrain = 64;  // rows that are worth handing to a thread

// Pointers and columns were checked when the file was read; what is asked here is that the arrays go together.
void add_sparse(Indices pointers, Indices columns, Values values, Rows x, Out y) {
    require(pointers.size() == y.shape(1) + 1 && x.shape(0) == y.shape(0), "x or y has another shape");
    const int64_t* start = pointers.data();
    const int64_t* column = columns.data();
    const float* value = values.data();
    const size_t rows = y.shape(1), batch = x.shape(0), inputs = x.shape(1);
    require(columns.size() == values.size() && start[0] == 0 && static_cast<size_t>(start[rows]) == values.size(),
            "the pointers do not span the values");
    const float* from = x.data();
    float* to = y.data();
    nb::gil_scoped_release release;
    pool::run(rows, kGrain, [&](size_t first, size_t last) {
        for (size_t row = first; row < last; row++) {
            for (size_t b = 0; b < batch; b++) {
                float sum = 0;
                for (int64_t i = start[row]; i < start[row + 1]; i++) sum += value[i] * from[b * inputs + static_cast<size_t>(column[i])];
                to[b * rows + row] += sum;
            }
        }
    });
}

}  // namespace

void bind_sparse(nb::module_& m) {
    m.def("add_sparse", &add_sparse, nb::arg("row_pointers"), nb::arg("columns"), nb::arg("values"), nb::arg("x"), nb::arg("y").noconvert(),
          "y (batch, N) += x (batch, K) · Sᵀ for a matrix S (N, K) in compressed rows, whose pointers rise and whose columns are below K.");
}

}  // namespace qformat
