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
constexpr size_t kLine = 64;

// A loop's number, and in it the units that a thread still has to do: [first, last).
struct Units {
    static constexpr int kBits = 20;
    static constexpr uint64_t kMost = (uint64_t{1} << kBits) - 1, kLoops = uint64_t{1} << (64 - 2 * kBits);

    uint64_t loop, first, last;

    static Units of(uint64_t word) { return {word >> (2 * kBits), word >> kBits & kMost, word & kMost}; }
    uint64_t word() const { return loop << (2 * kBits) | first << kBits | last; }
    uint64_t count() const { return last - first; }
};

// Where a thread's units are kept. What is left from an earlier loop stands for the share that this one begins with, so
// that nobody writes what another core is going to.
struct alignas(kApart) Place {
    std::atomic<uint64_t> units{0};
};

// A loop, as its threads see it: in one line, since each that another core has written takes a while to come.
struct Loop {
    Body body;
    size_t count, grain;
    Place* places;  // one for each thread
    uint32_t threads, number;

    // Every thread has an even share and walks through it from front to back, so that it reads one stream of memory. It
    // takes half of what is left each time, and a thread that is done takes half of what another one has left: however
    // many threads come, the last one to leave finds nothing left.
    void work(size_t place) const {
        if (place >= threads) return;
        const char* context = static_cast<const char*>(body.context);
        for (size_t at = 0; at < body.bytes; at += kLine) __builtin_prefetch(context + at);
        std::atomic<uint64_t>& own = places[place].units;
        do {
            uint64_t word = own.load(std::memory_order_relaxed);
            for (Units left = share(place, word); left.count(); left = share(place, word)) {
                const Units rest{number, left.first + (left.count() + 1) / 2, left.last};
                if (!own.compare_exchange_weak(word, rest.word(), std::memory_order_relaxed)) continue;
                body.call(body.context, left.first * grain, std::min(rest.first * grain, count));
                word = own.load(std::memory_order_relaxed);
            }
        } while (take_over(own));
    }

private:
    Units share(size_t place, uint64_t word) const {
        const Units left = Units::of(word);
        if (left.loop == number) return left;
        const size_t units = (count + grain - 1) / grain;
        return {number, units * place / threads, units * (place + 1) / threads};
    }

    // Moves the second half of the largest share into an empty one; false if nothing is left.
    bool take_over(std::atomic<uint64_t>& own) const {
        for (;;) {
            std::atomic<uint64_t>* largest = nullptr;
            uint64_t word = 0;
            Units most{};
            for (size_t place = 0; place < threads; place++) {
                const uint64_t its = places[place].units.load(std::memory_order_relaxed);
                const Units left = share(place, its);
                if (left.count() > most.count()) largest = &places[place].units, word = its, most = left;
            }
            if (!largest) return false;
            const uint64_t from = most.last - (most.count() + 1) / 2;
            if (!largest->compare_exchange_weak(word, Units{number, most.first, from}.word(), std::memory_order_relaxed)) continue;
            own.store(Units{number, from, most.last}.word(), std::memory_order_relaxed);
            return true;
        }
    }
};

class Pool {
public:
    // A system that gives no more threads leaves a smaller pool: whoever is there does all the work.
    explicit Pool(size_t workers) : asked_(workers), owner_(getpid()), workers_(workers) {
        try {
            for (size_t i = 0; i < workers; i++) threads_.emplace_back([this, i] { serve(i); });
        } catch (const std::system_error&) {
        }
    }

    ~Pool() {
        if (getpid() != owner_) {  // the threads exist only in the parent
            for (auto& thread : threads_) thread.detach();
            return;
        }
        call(Loop{});
        for (auto& thread : threads_) thread.join();
    }

    bool is_ours() const { return getpid() == owner_; }
    size_t asked() const { return asked_; }

    // Workers that have come by the end are waited for; others are told that it is over.
    void run(const Loop& loop) {
        const uint64_t ticket = call(loop);
        loop.work(0);
        for (size_t i = 0; i < threads_.size(); i++) {
            std::atomic<uint64_t>& state = workers_[i].state;
            for (uint64_t its = state.load(std::memory_order_acquire); its != over(ticket); relax(), its = state.load(std::memory_order_acquire))
                if (its != at_it(ticket) && state.compare_exchange_strong(its, over(ticket), std::memory_order_acquire)) break;
        }
    }

private:
    // What waiting threads look at, and what they find there.
    struct alignas(kApart) Call {
        Loop loop{};
        std::atomic<uint64_t> ticket{0};
    };
    static_assert(sizeof(Loop) + sizeof(uint64_t) <= kLine);

    // The last ticket that a worker has to do with, and whether it is at it.
    struct alignas(kApart) Worker {
        std::atomic<uint64_t> state{0};
    };
    static uint64_t at_it(uint64_t ticket) { return 2 * ticket; }
    static uint64_t over(uint64_t ticket) { return 2 * ticket + 1; }

    // Workers that look find the new ticket and take no lock: they would meet this thread in it, and sleep. Whoever goes to
    // sleep says so before the last look, so either that sees the ticket or this sees the sleeper, who waits by the time
    // that the lock is free.
    uint64_t call(const Loop& loop) {
        call_.loop = loop;
        const uint64_t ticket = call_.ticket.fetch_add(1) + 1;
        if (asleep_.load() == 0) return ticket;
        std::lock_guard<std::mutex> lock(mutex_);
        wake_.notify_all();
        return ticket;
    }

    void serve(size_t index) {
        std::atomic<uint64_t>& state = workers_[index].state;
        for (uint64_t seen = 0;;) {
            const auto until = std::chrono::steady_clock::now() + kAwake;
            while (call_.ticket.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < until) relax();
            if (call_.ticket.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex_);
                asleep_.fetch_add(1);
                wake_.wait(lock, [&] { return call_.ticket.load() != seen; });
                asleep_.fetch_sub(1);
            }
            seen = call_.ticket.load(std::memory_order_acquire);
            // from here on the caller waits, unless it has ended the loop before
            uint64_t mine = state.load(std::memory_order_relaxed);
            if (mine > at_it(seen) || !state.compare_exchange_strong(mine, at_it(seen), std::memory_order_acquire)) continue;
            const Loop loop = call_.loop;
            if (!loop.body.call) return;
            loop.work(index + 1);
            state.store(over(seen), std::memory_order_release);
        }
    }

    const size_t asked_;
    const pid_t owner_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<int> asleep_{0};
    Call call_;
    std::vector<Worker> workers_;
    std::vector<std::thread> threads_;
};

std::mutex gate;                // one loop at a time
std::vector<Place> places;      // guarded by `gate`, as what follows
uint64_t loops = 0;
std::unique_ptr<Pool> pool;
std::atomic<int> wanted{0};

// The OpenMP runtime of this process: its entry for a parallel region as GCC calls it (LLVM's runtime has it too), how
// many threads take part in one, and which of them is asking.
struct Runtime {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
    int (*max_threads)();
    int (*thread_num)();
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
    found.thread_num = reinterpret_cast<decltype(found.thread_num)>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
    found.owner = getpid();
    if (!found.parallel || !found.max_threads || !found.thread_num) return false;
    runtime.store(&found, std::memory_order_release);
    return true;
}

void set_threads(int count) { wanted.store(count > 0 ? count : 0); }

int threads() {
    if (const int count = wanted.load()) return count;
    const Runtime* shared = shared_runtime();
    return shared ? shared->max_threads() : cores();
}

void run(size_t count, size_t grain, const Body& body) {
    if (count == 0) return;
    grain = std::max({size_t{1}, grain, (count + Units::kMost - 1) / Units::kMost});
    const int use = threads();
    std::unique_lock<std::mutex> lock(gate, std::try_to_lock);
    if (count <= grain || use <= 1 || !lock.owns_lock()) {
        body.call(body.context, 0, count);
        return;
    }
    // Numbers come again; by then no place may have one of them from the last time.
    if (loops = (loops + 1) % Units::kLoops; loops == 0 || places.size() != static_cast<size_t>(use)) {
        places = std::vector<Place>(static_cast<size_t>(use));
        loops = 1;
    }
    const Loop loop{body, count, grain, places.data(), static_cast<uint32_t>(use), static_cast<uint32_t>(loops)};
    if (const Runtime* shared = shared_runtime()) {
        // However many come, each takes pieces until there are none. The team keeps its size, even for a short loop: one of
        // another size would be started anew.
        const auto work = [](void* data) {
            static_cast<const Loop*>(data)->work(static_cast<size_t>(runtime.load(std::memory_order_relaxed)->thread_num()));
        };
        shared->parallel(work, const_cast<Loop*>(&loop), static_cast<unsigned>(use), 0);
        return;
    }
    const size_t workers = static_cast<size_t>(use) - 1;
    if (pool && !pool->is_ours()) (void)pool.release();  // its threads and locks belong to the parent process
    if (!pool || pool->asked() != workers) {
        pool.reset();
        pool = std::make_unique<Pool>(workers);
    }
    pool->run(loop);
}

}  // namespace qformat::pool
