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
#include <thread>
#include <vector>

namespace qformat::pool {
namespace {

constexpr auto kAwake = std::chrono::microseconds(200);

int cores() {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return CPU_COUNT(&allowed);
    const unsigned count = std::thread::hardware_concurrency();
    return count ? static_cast<int>(count) : 1;
}

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// Pieces are half of an even share of what is left, so that few are taken and the last ones, which decide how long the
// others wait, are small.
struct Job {
    const std::function<void(size_t, size_t)>* body;
    size_t count, grain, threads;
    std::atomic<size_t> next{0};

    void work() {
        size_t first = next.load(std::memory_order_relaxed);
        while (first < count) {
            const size_t piece = std::max(grain, (count - first) / (2 * threads)), last = std::min(first + piece, count);
            if (!next.compare_exchange_weak(first, last, std::memory_order_relaxed)) continue;
            (*body)(first, last);
            first = next.load(std::memory_order_relaxed);
        }
    }
};

class Pool {
public:
    explicit Pool(int workers) : owner_(getpid()) {
        for (int i = 0; i < workers; i++) threads_.emplace_back([this] { serve(); });
    }

    ~Pool() {
        if (getpid() != owner_) {  // the threads exist only in the parent
            for (auto& thread : threads_) thread.detach();
            return;
        }
        {
            std::lock_guard<std::mutex> lock(mutex_);
            stop_ = true;
            ticket_.fetch_add(1);
        }
        wake_.notify_all();
        for (auto& thread : threads_) thread.join();
    }

    bool is_ours() const { return getpid() == owner_; }
    int workers() const { return static_cast<int>(threads_.size()); }

    void run(Job& job) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            job_ = &job;
            busy_.store(workers(), std::memory_order_relaxed);
            ticket_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        job.work();
        while (busy_.load(std::memory_order_acquire) != 0) relax();
    }

private:
    void serve() {
        unsigned seen = 0;
        for (;;) {
            const auto until = std::chrono::steady_clock::now() + kAwake;
            while (ticket_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < until) relax();
            if (ticket_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return ticket_.load(std::memory_order_relaxed) != seen; });
            }
            seen = ticket_.load(std::memory_order_acquire);
            Job* job;
            {
                std::lock_guard<std::mutex> lock(mutex_);
                if (stop_) return;
                job = job_;
            }
            job->work();
            busy_.fetch_sub(1, std::memory_order_release);
        }
    }

    const pid_t owner_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<unsigned> ticket_{0};
    std::atomic<int> busy_{0};
    Job* job_ = nullptr;
    bool stop_ = false;
    std::vector<std::thread> threads_;
};

std::mutex gate;                // one loop at a time
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
    const size_t limit = (count + grain - 1) / grain;
    const int use = static_cast<int>(limit < static_cast<size_t>(threads()) ? limit : static_cast<size_t>(threads()));
    std::unique_lock<std::mutex> lock(gate, std::try_to_lock);
    if (use <= 1 || !lock.owns_lock()) {
        body(0, count);
        return;
    }
    Job job{&body, count, std::max<size_t>(1, grain), static_cast<size_t>(threads())};
    if (const Runtime* shared = shared_runtime()) {
        // However many come, each takes pieces until there are none. The team keeps its size, even for a short loop: one of
        // another size would be started anew.
        shared->parallel([](void* data) { static_cast<Job*>(data)->work(); }, &job, static_cast<unsigned>(threads()), 0);
        return;
    }
    const int workers = threads() - 1;
    if (pool && !pool->is_ours()) (void)pool.release();  // its threads and locks belong to the parent process
    if (!pool || pool->workers() != workers) {
        pool.reset();
        pool = std::make_unique<Pool>(workers);
    }
    pool->run(job);
}

}  // namespace qformat::pool
