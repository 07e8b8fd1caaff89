#include "pool.h"

#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace qformat::pool {
namespace {

constexpr auto kAwake = std::chrono::microseconds(200);

// Cores that this process may run on, asked for anew only now and then: a loop takes less time than a few such questions.
int cores() {
    static std::atomic<unsigned> calls{0};
    static std::atomic<int> known{0};
    if (calls.fetch_add(1, std::memory_order_relaxed) % 1024 == 0 || known.load(std::memory_order_relaxed) == 0) {
        cpu_set_t allowed;
        CPU_ZERO(&allowed);
        const unsigned all = std::thread::hardware_concurrency();
        const int count = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : static_cast<int>(all);
        known.store(count > 0 ? count : 1, std::memory_order_relaxed);
    }
    return known.load(std::memory_order_relaxed);
}

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// What a core writes lies on lines of its own: two, because they are fetched in pairs.
constexpr size_t kApart = 128;

// Units that a thread still has to do: first in the low half, last (exclusive) in the high half. Its owner takes them from
// the front, others from the back.
struct alignas(kApart) Share {
    std::atomic<uint64_t> range{0};
};

uint64_t pack(uint64_t first, uint64_t last) { return first | last << 32; }
uint64_t first_of(uint64_t range) { return range & 0xFFFFFFFF; }
uint64_t last_of(uint64_t range) { return range >> 32; }
uint64_t length_of(uint64_t range) { return last_of(range) - first_of(range); }

// Every thread has an even share and walks through it from front to back, so that it reads one stream of memory. It takes
// half of what is left each time, and a thread that is done takes half of what another one has left.
class Job {
public:
    Job(const std::function<void(size_t, size_t)>& body, size_t count, size_t grain, std::vector<Share>& shares)
        : body_(body), count_(count), grain_(grain), shares_(shares) {
        const size_t units = (count + grain - 1) / grain, threads = shares.size();
        for (size_t i = 0; i < threads; i++)
            shares[i].range.store(pack(units * i / threads, units * (i + 1) / threads), std::memory_order_relaxed);
    }

    // However many threads come, the last one to leave finds nothing left.
    void work() {
        const size_t place = arrived_.fetch_add(1, std::memory_order_relaxed);
        if (place >= shares_.size()) return;
        Share& own = shares_[place];
        do {
            uint64_t now = own.range.load(std::memory_order_relaxed);
            while (length_of(now)) {
                const uint64_t next = first_of(now) + (length_of(now) + 1) / 2;
                if (!own.range.compare_exchange_weak(now, pack(next, last_of(now)), std::memory_order_relaxed)) continue;
                body_(first_of(now) * grain_, std::min(next * grain_, count_));
                now = own.range.load(std::memory_order_relaxed);
            }
        } while (take_over(own));
    }

private:
    // Moves the second half of the largest share into an empty one; false if nothing is left.
    bool take_over(Share& own) {
        for (;;) {
            Share* largest = nullptr;
            uint64_t range = 0;
            for (Share& share : shares_) {
                const uint64_t its = share.range.load(std::memory_order_relaxed);
                if (length_of(its) > length_of(range)) largest = &share, range = its;
            }
            if (!largest) return false;
            const uint64_t from = last_of(range) - (length_of(range) + 1) / 2;
            if (!largest->range.compare_exchange_weak(range, pack(first_of(range), from), std::memory_order_relaxed)) continue;
            own.range.store(pack(from, last_of(range)), std::memory_order_relaxed);
            return true;
        }
    }

    const std::function<void(size_t, size_t)>& body_;
    const size_t count_, grain_;
    std::vector<Share>& shares_;
    alignas(kApart) std::atomic<size_t> arrived_{0};
};

class Pool {
public:
    // A system that gives no more threads leaves a smaller pool: whoever is there does all the work.
    explicit Pool(int workers) : asked_(workers), owner_(getpid()) {
        try {
            for (int i = 0; i < workers; i++) threads_.emplace_back([this] { serve(); });
        } catch (const std::system_error&) {
        }
    }

    ~Pool() {
        if (getpid() != owner_) {  // the threads exist only in the parent
            for (auto& thread : threads_) thread.detach();
            return;
        }
        job_ = nullptr;
        call();
        for (auto& thread : threads_) thread.join();
    }

    bool is_ours() const { return getpid() == owner_; }
    int asked() const { return asked_; }

    void run(Job& job) {
        job_ = &job;
        busy_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
        call();
        job.work();
        while (busy_.load(std::memory_order_acquire) != 0) relax();
    }

private:
    // Workers that look find the new ticket and take no lock: they would meet this thread in it, and sleep. Whoever goes to
    // sleep says so before the last look, so either that sees the ticket or this sees the sleeper, who waits by the time
    // that the lock is free.
    void call() {
        ticket_.fetch_add(1);
        if (asleep_.load() == 0) return;
        std::lock_guard<std::mutex> lock(mutex_);
        wake_.notify_all();
    }

    void serve() {
        for (unsigned seen = 0;; seen++) {
            const auto until = std::chrono::steady_clock::now() + kAwake;
            while (ticket_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < until) relax();
            if (ticket_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex_);
                asleep_.fetch_add(1);
                wake_.wait(lock, [&] { return ticket_.load() != seen; });
                asleep_.fetch_sub(1);
            }
            if (!job_) return;
            job_->work();
            busy_.fetch_sub(1, std::memory_order_release);
        }
    }

    const int asked_;
    const pid_t owner_;
    std::mutex mutex_;
    std::condition_variable wake_;
    Job* job_ = nullptr;           // of the last ticket; none: it is over
    std::atomic<int> asleep_{0};
    alignas(kApart) std::atomic<unsigned> ticket_{0};  // what waiting threads look at
    alignas(kApart) std::atomic<int> busy_{0};         // what the caller looks at
    std::vector<std::thread> threads_;
};

std::mutex gate;                // one loop at a time
std::vector<Share> shares;      // guarded by `gate`
std::unique_ptr<Pool> pool;     // guarded by `gate`
std::atomic<int> wanted{0};

// The OpenMP runtime of this process: its entry for a parallel region as GCC calls it (LLVM's runtime has it too), and how
// many threads take part in one.
struct Runtime {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
    int (*max_threads)();
    pid_t owner;  // after a fork its threads are gone, and it does not know
};

std::atomic<const Runtime*> runtime{nullptr};

const Runtime* shared_runtime() {
    const Runtime* found = runtime.load(std::memory_order_acquire);
    return found && found->owner == getpid() ? found : nullptr;
}

}  // namespace

bool share_openmp() {
    static Runtime found;
    std::lock_guard<std::mutex> lock(gate);
    found.parallel = reinterpret_cast<decltype(found.parallel)>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    found.max_threads = reinterpret_cast<decltype(found.max_threads)>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
    found.owner = getpid();
    if (!found.parallel || !found.max_threads) return false;
    runtime.store(&found, std::memory_order_release);
    return true;
}

void set_threads(int count) { wanted.store(count > 0 ? count : 0); }

int threads() {
    if (const int count = wanted.load()) return count;
    const Runtime* shared = shared_runtime();
    return shared ? shared->max_threads() : cores();
}

void run(size_t count, size_t grain, const std::function<void(size_t, size_t)>& body) {
    if (count == 0) return;
    grain = std::max<size_t>(1, grain);
    const size_t units = (count + grain - 1) / grain;
    const int use = threads();
    std::unique_lock<std::mutex> lock(gate, std::try_to_lock);
    if (units <= 1 || units > UINT32_MAX || use <= 1 || !lock.owns_lock()) {
        body(0, count);
        return;
    }
    if (shares.size() != static_cast<size_t>(use)) shares = std::vector<Share>(static_cast<size_t>(use));
    Job job(body, count, grain, shares);
    if (const Runtime* shared = shared_runtime()) {
        // However many come, each takes pieces until there are none. The team keeps its size, even for a short loop: one of
        // another size would be started anew.
        shared->parallel([](void* data) { static_cast<Job*>(data)->work(); }, &job, static_cast<unsigned>(use), 0);
        return;
    }
    const int workers = use - 1;
    if (pool && !pool->is_ours()) (void)pool.release();  // its threads and locks belong to the parent process
    if (!pool || pool->asked() != workers) {
        pool.reset();
        pool = std::make_unique<Pool>(workers);
    }
    pool->run(job);
}

}  // namespace qformat::pool
