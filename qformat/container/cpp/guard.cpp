// Mappings that survive a file which shrinks under them.
//
// Touching a page of a mapping beyond the end of its file raises SIGBUS, which kills a process. For mappings that are
// registered here, the handler puts a page of zeros in the place of the lost one and lets the program go on; whoever
// used the mapping then finds, by looking at the file, that it has changed. Faults elsewhere go to the handler that was
// there before.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>

#include "names.h"
#include "tables.h"

namespace nb = nanobind;

namespace {

struct Range {
    std::atomic<uintptr_t> start{0}, end{0};
};

constexpr int kRanges = 4096;
Range ranges[kRanges];
struct sigaction previous;
bool installed = false;  // guarded by the GIL
uintptr_t page = 4096;

bool is_ours(uintptr_t address) {
    for (const Range& range : ranges) {
        if (address >= range.start.load(std::memory_order_acquire) && address < range.end.load(std::memory_order_acquire)) return true;
    }
    return false;
}

void on_fault(int signal, siginfo_t* info, void* context) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
    if (is_ours(address)) {
        void* at = reinterpret_cast<void*>(address & ~(page - 1));
        if (mmap(at, page, PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == at) return;
    }
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(signal, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(signal);
    } else {
        sigaction(signal, &previous, nullptr);  // the fault comes again and ends the process, as it would have
    }
}

void install() {
    page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &previous) != 0) throw std::runtime_error("cannot install a SIGBUS handler");
    installed = true;
}

// Registers a mapping; the number that `unprotect` takes, or -1 when the table is full.
int protect(uintptr_t start, uintptr_t length) {
    if (!installed) install();
    for (int i = 0; i < kRanges; i++) {
        if (ranges[i].end.load() == 0) {
            ranges[i].start.store(start, std::memory_order_release);
            ranges[i].end.store(start + length, std::memory_order_release);
            return i;
        }
    }
    return -1;
}

void unprotect(int number) {
    if (number < 0 || number >= kRanges) return;
    ranges[number].end.store(0, std::memory_order_release);
    ranges[number].start.store(0, std::memory_order_release);
}

// Lets a program write to bytes of a private mapping: pages that it writes become its own, the file stays as it is. Whatever
// the system does not allow, or is not in a mapping that is registered here, stays as it was.
void allow_writing(uintptr_t start, uintptr_t length) {
    const uintptr_t first = start & ~(page - 1);
    if (is_ours(start)) (void)mprotect(reinterpret_cast<void*>(first), start + length - first, PROT_READ | PROT_WRITE);
}

// Whether the file behind a descriptor still is what fstat said once. Called at every product: no tuple is made.
bool is_unchanged(int descriptor, uint64_t device, uint64_t inode, int64_t size, int64_t modified_ns) {
    struct stat found;
    if (fstat(descriptor, &found) != 0) return false;
    const int64_t modified = static_cast<int64_t>(found.st_mtim.tv_sec) * 1000000000 + found.st_mtim.tv_nsec;
    return found.st_dev == device && found.st_ino == inode && found.st_size == size && modified == modified_ns;
}

using Pool = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Starts = nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::tuple<int64_t, int64_t, int64_t> check_names(const Pool& pool, const Starts& starts, size_t restart) {
    if (starts.size() == 0) throw std::invalid_argument("starts end with the end of the last name");
    return qformat::check_names(pool.data(), pool.size(), starts.data(), starts.size() - 1, restart);
}

template <typename T, size_t D>
using Array = nb::ndarray<T, nb::ndim<D>, nb::c_contig, nb::device::cpu>;

std::pair<size_t, uint64_t> check_records(const Array<const uint64_t, 2>& words, size_t first, const Array<const bool, 1>& dtypes,
                                          const std::tuple<uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, double>& limits,
                                          const Array<uint64_t, 1>& starts, const Array<int32_t, 1>& rows, const Array<bool, 1>& own,
                                          const Array<uint64_t, 2>& extents, uint64_t attached) {
    const size_t count = rows.size(), n = words.shape(0);
    if (words.shape(1) != qformat::kWords || first > count || n > count - first || starts.size() != count + 1 || own.size() != count ||
        extents.shape(0) != 4 || extents.shape(1) != count) {
        throw std::invalid_argument("arrays do not belong together");
    }
    const auto& [name, dimension, extent, schemes, chunk, elements] = limits;
    const qformat::RecordLimits all{count, name, dimension, extent, schemes, chunk, elements, dtypes.data(), dtypes.size()};
    qformat::Gathered gathered{starts.data(), rows.data(), own.data(), extents.data(), attached};
    const size_t good = qformat::check_records(words.data(), n, first, all, gathered);
    return {good, gathered.attached};
}

bool check_extents(const Array<const bool, 1>& own, const Array<const uint64_t, 2>& extents, const Array<const uint64_t, 2>& chunks,
                   uint64_t begin, uint64_t end, uint64_t chunk, uint64_t codecs, uint64_t large, uint64_t page, uint64_t alignment) {
    if (extents.shape(0) != 4 || extents.shape(1) != own.size() || chunks.shape(1) != 2 || chunk == 0) {
        throw std::invalid_argument("arrays do not belong together");
    }
    return qformat::check_extents(own.data(), extents.data(), own.size(), chunks.data(), chunks.shape(0),
                                  {begin, end, chunk, codecs, large, page, alignment});
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Mappings that survive a file which shrinks under them; the tables of an index.";
    m.def("check_names", &check_names, nb::arg("pool"), nb::arg("starts"), nb::arg("restart"),
          "(first name that is not printable ASCII, first not greater than the one before, first not a plain path), -1 for none.");
    m.def("check_records", &check_records, nb::arg("words"), nb::arg("first"), nb::arg("dtypes"), nb::arg("limits"), nb::arg("starts"),
          nb::arg("rows"), nb::arg("own"), nb::arg("extents"), nb::arg("attached"),
          "(how many records are valid up to one that is not, attachments so far); gathers of each what the last arrays are for.");
    m.def("check_extents", &check_extents, nb::arg("own"), nb::arg("extents"), nb::arg("chunks"), nb::arg("begin"), nb::arg("end"),
          nb::arg("chunk"), nb::arg("codecs"), nb::arg("large"), nb::arg("page"), nb::arg("alignment"),
          "Whether extents and chunks follow each other from `begin` to `end`.");
    m.def("is_unchanged", &is_unchanged, nb::arg("descriptor"), nb::arg("device"), nb::arg("inode"), nb::arg("size"),
          nb::arg("modified_ns"), "Whether a descriptor's file has this device, inode, size and time of modification.");
    m.def("protect", &protect, nb::arg("start"), nb::arg("length"), "Register a mapping; returns its number, -1 if there is no room.");
    m.def("allow_writing", &allow_writing, nb::arg("start"), nb::arg("length"),
          "Let a program write to these bytes of a registered mapping, for itself alone.");
    m.def("unprotect", &unprotect, nb::arg("number"), "Forget a mapping, before it is unmapped.");
}
