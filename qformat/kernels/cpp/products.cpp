#include "products.h"

#include <algorithm>
#include <vector>

#include "pool.h"

#include "stream.h"

namespace qformat::products {
namespace {

constexpr size_t kPiece = size_t{1} << 15;  // bytes of codes that are worth handing to a thread

// Scratch of one call, kept per thread: a layer needs no allocation after its first call.
struct Scratch {
    std::vector<Line> own, shared;  // activations: for this thread, and for the others
    std::vector<float> totals, out;
};

size_t size_of(Value kind) { return kind == Value::float32 ? 4 : 2; }
size_t panels_of(const Panels& m) { return (m.rows + kRows - 1) / kRows; }

size_t runs_of(const Panels& m) {
    const size_t per_group = (m.group + kRun - 1) / kRun, rest = m.inputs % m.group;
    return m.inputs / m.group * per_group + (rest + kRun - 1) / kRun;
}

// Where the activations of up to 8 rows of x go: into one block of lines, which has room for them afterwards.
Activations room_for(std::vector<Line>& block, const Panels& m, Mode mode, int rows) {
    Activations a{};
    a.batch = rows == 1 ? 1 : rows <= 4 ? 4 : 8;
    a.rows = rows;
    a.runs = runs_of(m);
    const size_t batch = static_cast<size_t>(a.batch), slots = a.runs * batch;
    size_t used = 0;
    const auto take = [&]<class T>(T*& array, size_t count) {
        array = reinterpret_cast<T*>(block.data() + used);
        used += (count * sizeof(T) + sizeof(Line) - 1) / sizeof(Line);
    };
    const auto arrange = [&] {
        used = 0;
        take(a.totals, (m.inputs + m.group - 1) / m.group * batch);
        if (mode == Mode::int8) {
            take(a.codes, slots * kRun), take(a.scales, slots), take(a.sums, slots);
        } else if (mode == Mode::bfloat16) {
            take(a.pairs, slots * kRun);
        } else {
            take(a.values, slots * kRun);
        }
    };
    arrange();
    block.resize(used);
    arrange();
    return a;
}

// One of the matrices of a loop: its panels, as the loop counts them, start at `first`.
struct Part {
    Panels matrix;
    PanelKernel kernel;
    size_t first, panels;
    float* y;  // (batch, 16 · panels)
    Output out;
};

// Up to 8 rows of x against matrices with equal groups, in one mode.
void together(const Kernels& kernels, std::span<const Panels* const> matrices, Mode mode, Input x, std::span<const Output> out) {
    thread_local Scratch scratch;
    thread_local std::vector<Part> parts;
    const Panels& m = *matrices[0];
    const int rows = static_cast<int>(x.rows);
    Activations a = room_for(scratch.own, m, mode, rows);
    kernels.prepare(x.data, x.kind, m.inputs, m.group, mode, a);
    parts.clear();
    size_t panels = 0, longest = 1;
    for (size_t i = 0; i < matrices.size(); i++) {
        parts.push_back({*matrices[i], kernels.matvec(*matrices[i], mode, a.batch), panels, panels_of(*matrices[i]), nullptr, out[i]});
        panels += parts.back().panels;
        longest = std::max(longest, matrices[i]->panel_bytes);
    }
    scratch.out.resize(panels * kRows * static_cast<size_t>(a.batch));
    for (Part& part : parts) part.y = scratch.out.data() + part.first * kRows * static_cast<size_t>(a.batch);
    const size_t grain = std::max<size_t>(1, kPiece / longest);
    const bool alone = panels <= grain || pool::threads() <= 1;
    const Activations others = alone ? a : room_for(scratch.shared, m, mode, rows);
    if (!alone) stream(scratch.own, scratch.shared);
    // held by value, and `parts` is another one on other threads
    pool::run(panels, grain, [a, others, rows, mine = &scratch, narrow = kernels.narrow, all = std::span<const Part>(parts),
                              block = std::span<const Line>(scratch.shared)](size_t first, size_t last) {
        const bool own = &scratch == mine;
        if (!own) fetch(std::as_bytes(all)), fetch(std::as_bytes(block));
        for (const Part& part : all) {
            const size_t from = std::max(first, part.first), to = std::min(last, part.first + part.panels);
            if (from >= to) continue;
            const size_t stride = part.panels * kRows, top = (from - part.first) * kRows;
            const size_t count = std::min((to - part.first) * kRows, part.matrix.rows) - top;
            part.kernel(part.matrix, own ? a : others, from - part.first, to - part.first, part.y, stride);
            for (size_t row = 0; row < static_cast<size_t>(rows); row++) {
                uint8_t* into = part.out.data + (row * part.matrix.rows + top) * size_of(part.out.kind);
                narrow(part.y + row * stride + top, count, part.out.kind, into);
            }
        }
    });
}

// Up to kBatch rows of x against the whole matrix.
void batch_rows(const BatchKernels& kernels, const Panels& m, Input x, float* out) {
    thread_local Scratch scratch;
    const size_t unit = kernels.blocks.unit;
    Batch batch{std::max<size_t>(16, (x.rows + unit - 1) / unit * unit), runs_of(m), kernels.blocks.rows, nullptr, nullptr};
    const size_t panels = panels_of(m), stride = panels * kRows;
    scratch.shared.resize(batch.rows * batch.runs * kRun * sizeof(uint16_t) / sizeof(Line));
    scratch.totals.resize(batch.rows * chunks_of(m.inputs, m.group));
    batch.pairs = reinterpret_cast<uint32_t*>(scratch.shared.data()), batch.totals = scratch.totals.data();
    pool::run(batch.blocks(), 1,
              [&](size_t first, size_t last) { kernels.prepare(x.data, x.kind, x.rows, m.inputs, m.group, first, last, batch); });
    if (x.rows == batch.rows && stride == m.rows) {
        pool::run(panels, 1, [&](size_t first, size_t last) { kernels.product(m, batch, first, last, out, stride); });
        return;
    }
    scratch.out.resize(batch.rows * stride);
    float* y = scratch.out.data();
    pool::run(panels, 1, [&](size_t first, size_t last) { kernels.product(m, batch, first, last, y, stride); });
    for (size_t row = 0; row < x.rows; row++) std::copy_n(y + row * stride, m.rows, out + row * m.rows);
}

}  // namespace

Mode mode_for(const Kernels& kernels, const Panels& m, Mode mode) { return kernels.matvec(m, mode, 1) ? mode : Mode::float32; }

void few(const Kernels& kernels, std::span<const Panels* const> matrices, Mode mode, Input x, std::span<const Output> out) {
    std::vector<Output> now;
    for (size_t first = 0, last; first < matrices.size(); first = last) {
        const Panels& m = *matrices[first];
        const Mode use = mode_for(kernels, m, mode);
        for (last = first + 1; last < matrices.size(); last++)
            if (matrices[last]->group != m.group || mode_for(kernels, *matrices[last], mode) != use) break;
        for (size_t row = 0; row < x.rows; row += 8) {
            now.assign(out.begin() + static_cast<ptrdiff_t>(first), out.begin() + static_cast<ptrdiff_t>(last));
            for (size_t i = 0; i < now.size(); i++) now[i].data += row * matrices[first + i]->rows * size_of(now[i].kind);
            const Input part{x.data + row * m.inputs * size_of(x.kind), x.kind, std::min<size_t>(8, x.rows - row)};
            together(kernels, matrices.subspan(first, last - first), use, part, now);
        }
    }
}

void many(const BatchKernels& kernels, const Panels& m, Input x, float* out) {
    const auto& [most, rows, unit] = kernels.blocks;
    const size_t parts = (x.rows + most - 1) / most, step = ((x.rows + parts - 1) / parts + unit - 1) / unit * unit;
    for (size_t row = 0; row < x.rows; row += step) {
        const Input part{x.data + row * m.inputs * size_of(x.kind), x.kind, std::min(step, x.rows - row)};
        batch_rows(kernels, m, part, out + row * m.rows);
    }
}

}  // namespace qformat::products
