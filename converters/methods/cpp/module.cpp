// The Python module: chooses the instruction set, splits rows over threads, and holds every array until they are done.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <string>
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
    for (size_t index = 1; index < parts; ++index) others.emplace_back(part, index);
    part(0);
    for (std::thread& other : others) other.join();
}

void expect(bool right, const char* what) {
    if (!right) throw std::invalid_argument(std::string("wrong size of ") + what);
}

size_t groups_of(size_t columns, size_t group) { return (columns + group - 1) / group; }

void run_groups(void (*loop)(const GroupJob&, size_t, size_t, float*), const GroupJob& job, size_t rows, int threads) {
    nb::gil_scoped_release free;
    const size_t padded = (std::min(job.group, job.columns) + 15) / 16 * 16;
    std::vector<float> scratch(padded * std::max(threads, 1));
    split(rows, 1, threads, [&](size_t first, size_t last, size_t thread) {
        loop(job, first, last, scratch.data() + padded * thread);
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

LookupJob lookup_job(Array<const float>& weight, size_t block, Array<const float>& bounds, Array<const float>& sorted,
                     Array<const uint8_t>& order, Array<uint8_t>& codes, Array<float>& scales) {
    expect(block > 0 && bounds.size() == 15 && sorted.size() == 16 && order.size() == 16, "the table");
    for (size_t i = 0; i < 16; ++i) expect(order.data()[i] < 16, "the order");
    expect(codes.size() == weight.size(), "codes");
    expect(scales.size() == groups_of(weight.size(), block), "scales");
    return {weight.data(), weight.size(), block, bounds.data(), sorted.data(), order.data(), codes.data(), scales.data()};
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
    expect(weight.ndim() == 2, "weight");
    const size_t rows = weight.shape(0), columns = weight.shape(1);
    expect(codes.size() == rows * columns && scales.size() == rows && errors.size() == 3 * rows, "an output");
    const RowJob job = {weight.data(), columns, eetq, half, codes.data(), scales.data(), errors.data()};
    nb::gil_scoped_release free;
    const size_t padded = (columns + 15) / 16 * 16;
    std::vector<float> scratch(padded * std::max(threads, 1));
    split(rows, 1, threads, [&](size_t first, size_t last, size_t thread) {
        active->rows(job, first, last, scratch.data() + padded * thread);
    });
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
    const size_t rows = codes.shape(0), columns = codes.shape(1), panels = (rows + 15) / 16;
    std::vector<Array<const uint8_t>> held;
    std::vector<Beside> headers;
    size_t header = 0;
    for (const nb::tuple& each : beside) {
        held.push_back(nb::cast<Array<const uint8_t>>(each[0]));
        const int size = nb::cast<int>(each[1]), its_bits = nb::cast<int>(each[2]), flip = nb::cast<int>(each[3]);
        expect(size >= 1 && size <= 8 && its_bits >= 0 && its_bits <= 8 && flip >= 0 && flip < 256, "a header");
        expect(held.back().size() == rows * groups_of(columns, group) * size, "an array beside the codes");
        headers.push_back({held.back().data(), size, its_bits, (uint8_t)flip});
        header += its_bits ? 2 * its_bits : 16 * size;
    }
    auto run = [&](size_t length) {
        size_t bytes = 0;
        for (int width = 8; width > 0; width /= 2)
            if (bits & width) bytes += (length * width + 31) / 32 * 64;
        return bytes;
    };
    auto one = [&](size_t length) { return header + length / 64 * run(64) + (length % 64 ? run(length % 64) : 0); };
    const size_t rest = columns % group, panel = columns / group * one(group) + (rest ? one(rest) : 0);
    expect(out.size() == panels * panel, "the panels");
    const PanelJob job = {codes.data(), rows, columns, group, bits, is_signed, headers.data(), (int)headers.size(),
                          out.data()};
    nb::gil_scoped_release free;
    split(panels, 1, threads, [&](size_t first, size_t last, size_t) { active->pack_panels(job, first, last); });
}

void pack_stream(Array<const uint8_t> codes, int bits, int flip, Array<uint8_t> out, int threads) {
    expect(bits >= 1 && bits <= 8 && flip >= 0 && flip < 256, "bits or bias");
    expect(out.size() == (codes.size() * bits + 7) / 8, "the stream");
    nb::gil_scoped_release free;
    split(codes.size(), 8, threads, [&](size_t first, size_t last, size_t) {
        active->pack_stream(codes.data() + first, last - first, bits, (uint8_t)flip, out.data() + first / 8 * bits);
    });
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
    m.def("measure", &measure);
    m.def("widen", &widen);
    m.def("halves", &halves);
    m.def("largest", &largest);
    m.def("extremes", &extremes);
    m.def("pack_panels", &pack_panels);
    m.def("pack_stream", &pack_stream);
}
