// Threads for short parallel loops.
//
// Workers wait a fifth of a millisecond for the next loop and then sleep, so that the layers of a model find them awake
// and other libraries' threads get the cores in between. A thread that is done takes over what others have left, and a loop is
// over without the workers that have not come: one that the system has put aside, as beside other processes, does not hold it
// up. After a fork the child starts its own workers.
#pragma once

#include <cstddef>

namespace qformat::pool {

// Threads a loop uses, the caller's included; 0 asks for one per core this process may run on.
void set_threads(int count);
int threads();

// Run loops on the threads of the OpenMP runtime that this process has loaded: beside a library whose own loops run
// there, a second set of threads would compete with the first, which spins for milliseconds after each of its loops.
// Without set_threads their number is then the runtime's. Returns whether there is such a runtime.
bool share_openmp();

// A body and what it knows: the threads fetch all `bytes` of that at once.
struct Body {
    void (*call)(const void* context, size_t first, size_t last);
    const void* context;
    size_t bytes;
};

void run(size_t count, size_t grain, const Body& body);

// Calls body(first, last) over pieces of [0, count), each at least `grain` long but the last; returns when all are done.
// A loop inside a loop, or beside one of another thread, runs on the calling thread alone. What `body` holds by value
// reaches the threads sooner than what it refers to.
template <class F>
void run(size_t count, size_t grain, const F& body) {
    const auto call = [](const void* context, size_t first, size_t last) { (*static_cast<const F*>(context))(first, last); };
    run(count, grain, Body{call, &body, sizeof body});
}

}  // namespace qformat::pool
