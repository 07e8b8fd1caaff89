// The Python module: chooses the instruction set, splits rows over threads, and holds every array until they are done.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "loops.hpp"

namespace nb = nanobind;

namespace generic { extern const Loops loops; }
#ifdef QFORMAT_X86
namespace avx2 { extern const Loops loops; }
namespace avx512 { extern const Loops loops; }
#endif

namespace {

template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

std::vector<const Loops*> supported() {
    std::vector<const Loops*> out = {&generic::loops};
#ifdef QFORMAT_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) out.push_back(&avx2::loops);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        out.push_back(&avx512::loops);
#endif
    return out;
}

const Loops* active = &generic::loops;

void choose(const std::string& name) {
    for (const Loops* loops : supported())
        if (name == loops->name) {
            active = loops;
            return;
        }
    throw std::invalid_argument("no such instruction set here: " + name);
}

// run(first, last, thread) over parts of [0, count), on at most `threads` threads; one part per thread, cut at `unit`.
template <class Run>
void split(size_t count, size_t unit, int threads, const Run& run) {
    const size_t units = (count + unit - 1) / unit;
    const size_t parts = std::max<size_t>(1, std::min<size_t>(units, threads > 0 ? threads : 1));
    auto part = [&](size_t index) {
        const size_t first = units * index / parts * unit, last = std::min(units * (index + 1) / parts * unit, count);
        if (first < last) run(first, last, index);
    };
    std::vector<std::thread> others;
    others.reserve(parts - 1);
    for (size_t index = 1; index < parts; ++index) {
        try {
            others.emplace_back(part, index);
        } catch (const std::system_error&) {  // the system gives no more threads
            part(index);
        }
    }
    part(0);
    for (std::thread& other : others) other.join();
}

void expect(bool right, const char* what) {
    if (!right) throw std::invalid_argument(std::string("wrong size of ") + what);
}

void run_groups(GroupLoop loop, const GroupJob& job, size_t rows, int threads) {
    nb::gil_scoped_release free;
    const size_t floats = scratch_floats(job.columns, job.group);
    std::vector<float> scratch(floats * std::max(threads, 1));
    split(rows, 1, threads, [&](size_t first, size_t last, size_t thread) {
        loop(job, first, last, scratch.data() + floats * thread);
    });
}

// The checks that every group loop needs; the third array is checked by its caller.
GroupJob group_job(Array<const float>& weight, size_t group, int bits, bool half, Array<uint8_t>& codes,
                   Array<float>& scales, Array<double>& errors) {
    expect(weight.ndim() == 2 && group > 0 && bits >= 1 && bits <= 8, "weight, group or bits");
    const size_t rows = weight.shape(0), columns = weight.shape(1);
    expect(codes.size() == rows * columns, "codes");
    expect(scales.size() == rows * groups_of(columns, group), "scales");
    expect(errors.size() == 3 * rows, "errors");
    GroupJob job = {};
    job.weight = weight.data();
    job.columns = columns;
    job.group = group;
    job.bits = bits;
    job.half = half;
    job.codes = codes.data();
    job.scales = scales.data();
    job.errors = errors.data();
    return job;
}

void rtn_symmetric(Array<const float> weight, size_t group, int bits, bool half, Array<uint8_t> codes,
                   Array<float> scales, Array<double> errors, int threads) {
    run_groups(active->rtn_symmetric, group_job(weight, group, bits, half, codes, scales, errors), weight.shape(0), threads);
}

void rtn_asymmetric(Array<const float> weight, size_t group, int bits, bool half, Array<uint8_t> codes,
                    Array<float> scales, Array<uint8_t> zeros, Array<double> errors, int threads) {
    GroupJob job = group_job(weight, group, bits, half, codes, scales, errors);
    expect(zeros.size() == scales.size(), "zeros");
    job.third = zeros.data();
    run_groups(active->rtn_asymmetric, job, weight.shape(0), threads);
}

void ls(Array<const float> weight, size_t group, int bits, bool symmetric, bool half, Array<uint8_t> codes,
        Array<float> scales, Array<float> offsets, Array<double> errors, int threads) {
    GroupJob job = group_job(weight, group, bits, half, codes, scales, errors);
    expect(offsets.size() == scales.size(), "offsets");
    job.symmetric = symmetric;
    job.third = offsets.data();
    run_groups(active->ls, job, weight.shape(0), threads);
}

void hqq(Array<const float> weight, size_t group, int bits, bool half, double lp, double beta, double kappa,
         int iterations, Array<uint8_t> codes, Array<float> scales, Array<float> zeros, Array<double> errors,
         int threads) {
    GroupJob job = group_job(weight, group, bits, half, codes, scales, errors);
    expect(zeros.size() == scales.size(), "zeros");
    job.third = zeros.data();
    job.lp = lp;
    job.beta = beta;
    job.kappa = kappa;
    job.iterations = iterations;
    run_groups(active->hqq, job, weight.shape(0), threads);
}

Table table_of(const Array<const float>& bounds, const Array<const float>& sorted, const Array<const uint8_t>& order) {
    expect(bounds.size() == 15 && sorted.size() == 16 && order.size() == 16, "the table");
    for (size_t i = 0; i < 16; ++i) expect(order.data()[i] < 16, "the order");
    return {bounds.data(), sorted.data(), order.data()};
}

LookupJob lookup_job(Array<const float>& weight, size_t block, Array<const float>& bounds, Array<const float>& sorted,
                     Array<const uint8_t>& order, Array<uint8_t>& codes, Array<float>& scales) {
    expect(block > 0, "a block");
    expect(codes.size() == weight.size(), "codes");
    expect(scales.size() == groups_of(weight.size(), block), "scales");
    return {weight.data(), weight.size(), block, table_of(bounds, sorted, order), codes.data(), scales.data()};
}

void lookup(Array<const float> weight, size_t block, Array<const float> bounds, Array<const float> sorted,
            Array<const uint8_t> order, Array<uint8_t> codes, Array<float> scales, int threads) {
    const LookupJob job = lookup_job(weight, block, bounds, sorted, order, codes, scales);
    nb::gil_scoped_release free;
    split(scales.size(), 1, threads, [&](size_t first, size_t last, size_t) { active->lookup(job, first, last); });
}

void measure_lookup(Array<const float> weight, size_t block, Array<const float> bounds, Array<const float> sorted,
                    Array<const uint8_t> order, Array<uint8_t> codes, Array<float> scales, Array<double> errors,
                    int threads) {
    const LookupJob job = lookup_job(weight, block, bounds, sorted, order, codes, scales);
    expect(weight.ndim() == 2 && errors.size() == 3 * weight.shape(0), "errors");
    const size_t columns = weight.shape(1);
    nb::gil_scoped_release free;
    split(weight.shape(0), 1, threads, [&](size_t first, size_t last, size_t) {
        active->measure_lookup(job, columns, first, last, errors.data());
    });
}

void scaled_rows(Array<const float> weight, bool eetq, bool half, Array<uint8_t> codes, Array<float> scales,
                 Array<double> errors, int threads) {
    GroupJob job = group_job(weight, std::max<size_t>(weight.shape(1), 1), 8, half, codes, scales, errors);
    job.symmetric = eetq;
    run_groups(active->scaled_rows, job, weight.shape(0), threads);
}

void measure(Array<const float> weight, Array<const float> decoded, Array<double> errors, int threads) {
    expect(weight.ndim() == 2 && decoded.size() == weight.size() && errors.size() == 3 * weight.shape(0), "an array");
    const size_t columns = weight.shape(1);
    nb::gil_scoped_release free;
    split(weight.shape(0), 1, threads, [&](size_t first, size_t last, size_t) {
        active->measure(weight.data(), decoded.data(), columns, first, last, errors.data());
    });
}

void widen(Array<const uint16_t> from, bool half, Array<float> to, int threads) {
    expect(to.size() == from.size(), "the result");
    nb::gil_scoped_release free;
    split(from.size(), 4096, threads, [&](size_t first, size_t last, size_t) {
        active->widen(from.data() + first, last - first, half, to.data() + first);
    });
}

void halves(Array<const float> from, Array<uint16_t> to, int threads) {
    expect(to.size() == from.size(), "the result");
    nb::gil_scoped_release free;
    split(from.size(), 4096, threads, [&](size_t first, size_t last, size_t) {
        active->halves(from.data() + first, last - first, to.data() + first);
    });
}

int largest_bits(Array<const uint16_t> from, int threads) {
    std::vector<uint16_t> found(std::max(threads, 1), 0);
    nb::gil_scoped_release free;
    split(from.size(), 4096, threads, [&](size_t first, size_t last, size_t thread) {
        found[thread] = active->largest_bits(from.data() + first, last - first);
    });
    return *std::max_element(found.begin(), found.end());
}

float largest(Array<const float> weight, int threads) {
    std::vector<float> found(std::max(threads, 1), 0.0f);
    nb::gil_scoped_release free;
    split(weight.size(), 4096, threads, [&](size_t first, size_t last, size_t thread) {
        found[thread] = active->largest(weight.data() + first, last - first);
    });
    return *std::max_element(found.begin(), found.end());
}

std::vector<float> extremes(Array<const float> weight, size_t group, float limit, int threads) {
    expect(weight.ndim() == 2 && group > 0, "weight or group");
    const size_t parts = std::max(threads, 1), columns = weight.shape(1);
    std::vector<float> found(2 * parts, 0.0f);
    {
        nb::gil_scoped_release free;
        split(weight.shape(0), 1, threads, [&](size_t first, size_t last, size_t thread) {
            active->extremes(weight.data(), columns, group, limit, first, last, found.data() + 2 * thread);
        });
    }
    std::vector<float> both = {0.0f, 0.0f};
    for (size_t i = 0; i < found.size(); ++i) both[i % 2] = std::max(both[i % 2], found[i]);
    return both;
}

// `beside`: (array, bytes of an item, bits or 0, bias) for each array of numbers that shares a header.
void pack_panels(Array<const uint8_t> codes, size_t group, int bits, bool is_signed,
                 std::vector<nb::tuple> beside, Array<uint8_t> out, int threads) {
    expect(codes.ndim() == 2 && group > 0 && bits >= 1 && bits <= 8 && beside.size() <= 4, "codes, group or bits");
    const size_t rows = codes.shape(0), columns = codes.shape(1);
    std::vector<Array<const uint8_t>> held;
    std::vector<Beside> headers;
    for (const nb::tuple& each : beside) {
        held.push_back(nb::cast<Array<const uint8_t>>(each[0]));
        const int size = nb::cast<int>(each[1]), its_bits = nb::cast<int>(each[2]), flip = nb::cast<int>(each[3]);
        expect(size >= 1 && size <= 8 && its_bits >= 0 && its_bits <= 8 && flip >= 0 && flip < 256, "a header");
        expect(held.back().size() == rows * groups_of(columns, group) * size, "an array beside the codes");
        headers.push_back({held.back().data(), size, its_bits, (uint8_t)flip});
    }
    const PanelJob job = {codes.data(), rows, columns, columns, group, bits, is_signed, headers.data(), (int)headers.size(),
                          out.data()};
    expect(out.size() == (rows + 15) / 16 * active->panel_bytes(job), "the panels");
    nb::gil_scoped_release free;
    split((rows + 15) / 16, 1, threads, [&](size_t first, size_t last, size_t) { active->pack_panels(job, first, last); });
}

void pack_stream(Array<const uint8_t> codes, int bits, int flip, Array<uint8_t> out, int threads) {
    expect(bits >= 1 && bits <= 8 && flip >= 0 && flip < 256, "bits or bias");
    expect(out.size() == (codes.size() * bits + 7) / 8, "the stream");
    nb::gil_scoped_release free;
    split(codes.size(), 8, threads, [&](size_t first, size_t last, size_t) {
        active->pack_stream(codes.data() + first, last - first, bits, (uint8_t)flip, out.data() + first / 8 * bits);
    });
}

GroupLoop group_loop(const std::string& name) {
    if (name == "rtn_symmetric") return active->rtn_symmetric;
    if (name == "rtn_asymmetric") return active->rtn_asymmetric;
    if (name == "ls") return active->ls;
    if (name == "hqq") return active->hqq;
    if (name == "lookup_rows") return active->lookup_rows;
    if (name == "scaled_rows") return active->scaled_rows;
    throw std::invalid_argument("no such loop: " + name);
}

Source source_of(const std::string& dtype) {
    if (dtype == "bfloat16") return Source::bfloat16;
    if (dtype == "float16") return Source::float16;
    expect(dtype == "float32", "an item");
    return Source::float32;
}

// Rows of a checkpoint into panels by the loop `name`; `besides`: (bytes of an item, bits or 0) of each array beside the
// codes. (largest, small), or None when a weight or a number is out of range: then the outputs mean nothing.
nb::object slab(const std::string& name, Array<const uint8_t> from, const std::string& dtype, size_t columns, size_t group,
                int bits, bool is_signed, bool half, bool symmetric, std::vector<double> solver, int iterations,
                Array<const float> bounds, Array<const float> sorted, Array<const uint8_t> order, float limit,
                float ceiling, std::vector<std::pair<int, int>> besides, Array<uint8_t> out, Array<double> errors,
                int threads) {
    SlabJob job = {};
    job.source = source_of(dtype);
    const size_t row_bytes = columns * (job.source == Source::float32 ? 4 : 2);
    expect(columns > 0 && group > 0 && bits >= 1 && bits <= 8 && from.size() % row_bytes == 0, "the rows");
    expect(name != "lookup_rows" || (columns % group == 0 && group % 16 == 0), "a block");
    expect(name != "scaled_rows" || group >= columns, "a group");
    expect(besides.size() >= 1 && besides.size() <= 2 && solver.size() == 3, "a list");
    job.from = from.data();
    job.rows = from.size() / row_bytes;
    job.group.columns = columns;
    job.group.group = group;
    job.group.bits = bits;
    job.group.half = half;
    job.group.symmetric = symmetric;
    job.group.lp = solver[0];
    job.group.beta = solver[1];
    job.group.kappa = solver[2];
    job.group.iterations = iterations;
    job.group.table = table_of(bounds, sorted, order);
    job.loop = group_loop(name);
    job.limit = limit;
    job.ceiling = ceiling;
    job.is_signed = is_signed;
    job.besides = (int)besides.size();
    for (size_t b = 0; b < besides.size(); ++b) {
        const auto [size, its_bits] = besides[b];
        expect(its_bits ? b == 1 && size == 1 && its_bits <= 8 : size == 2 || size == 4, "a number");
        job.beside[b] = {nullptr, size, its_bits, 0};
    }
    job.out = out.data();
    job.errors = errors.data();
    const size_t panels = (job.rows + 15) / 16, floats = slab_floats(columns, group), parts = std::max(threads, 1);
    expect(out.size() == panels * active->panel_bytes(panels_of(job)) && errors.size() == 3 * job.rows, "an output");
    std::vector<float> both(2 * parts, 0.0f);
    std::vector<char> fine(parts, 1);
    {
        nb::gil_scoped_release free;
        std::vector<float> scratch(floats * parts);
        split(panels, 1, threads, [&](size_t first, size_t last, size_t thread) {
            fine[thread] = active->slab(job, first, last, scratch.data() + floats * thread, both.data() + 2 * thread);
        });
    }
    if (std::count(fine.begin(), fine.end(), 0)) return nb::none();
    for (size_t i = 2; i < both.size(); ++i) both[i % 2] = std::max(both[i % 2], both[i]);
    return nb::make_tuple(both[0], both[1]);
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Native loops of the methods; the numpy twins in qformat.converters.methods define them.";
    m.def("available", [] {
        std::vector<std::string> names;
        for (const Loops* loops : supported()) names.push_back(loops->name);
        return names;
    });
    m.def("select", &choose);
    m.def("rtn_symmetric", &rtn_symmetric);
    m.def("rtn_asymmetric", &rtn_asymmetric);
    m.def("ls", &ls);
    m.def("hqq", &hqq);
    m.def("lookup", &lookup);
    m.def("measure_lookup", &measure_lookup);
    m.def("scaled_rows", &scaled_rows);
    m.def("slab", &slab);
    m.def("measure", &measure);
    m.def("widen", &widen);
    m.def("largest_bits", &largest_bits);
    m.def("halves", &halves);
    m.def("largest", &largest);
    m.def("extremes", &extremes);
    m.def("pack_panels", &pack_panels);
    m.def("pack_stream", &pack_stream);
}
