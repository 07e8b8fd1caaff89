// Mappings that survive a file which shrinks under them.
//
// Touching a page of a mapping beyond the end of its file raises SIGBUS, which kills a process. For mappings that are
// registered here, the handler puts a page of zeros in the place of the lost one and lets the program go on; whoever
// used the mapping then finds, by looking at the file, that it has changed. Faults elsewhere go to the handler that was
// there before.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>

#include "names.h"

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

// Whether the file behind a descriptor still is what fstat said once. Called at every product: no tuple is made.
bool is_unchanged(int descriptor, uint64_t device, uint64_t inode, int64_t size, int64_t modified_ns) {
    struct stat found;
    if (fstat(descriptor, &found) != 0) return false;
    const int64_t modified = static_cast<int64_t>(found.st_mtim.tv_sec) * 1000000000 + found.st_mtim.tv_nsec;
    return found.st_dev == device && found.st_ino == inode && found.st_size == size && modified == modified_ns;
}

using Starts = nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::pair<int64_t, int64_t> check_names(const nb::bytes& pool, const Starts& starts, size_t restart) {
    if (starts.size() == 0) throw std::invalid_argument("starts end with the end of the last name");
    const auto* bytes = reinterpret_cast<const unsigned char*>(pool.c_str());
    return qformat::check_names(bytes, pool.size(), starts.data(), starts.size() - 1, restart);
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Mappings that survive a file which shrinks under them; the names of an index.";
    m.def("check_names", &check_names, nb::arg("pool"), nb::arg("starts"), nb::arg("restart"),
          "(first name that is not printable ASCII, first that is not greater than the one before), -1 for none.");
    m.def("is_unchanged", &is_unchanged, nb::arg("descriptor"), nb::arg("device"), nb::arg("inode"), nb::arg("size"),
          nb::arg("modified_ns"), "Whether a descriptor's file has this device, inode, size and time of modification.");
    m.def("protect", &protect, nb::arg("start"), nb::arg("length"), "Register a mapping; returns its number, -1 if there is no room.");
    m.def("unprotect", &unprotect, nb::arg("number"), "Forget a mapping, before it is unmapped.");
}
