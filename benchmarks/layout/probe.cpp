// Layout experiment: how must quantized codes lie in memory so that y = W x (batch 1) streams them at memory speed?
//
// One buffer of noise stands for every tensor of every layout: a variant only *interprets* it. Each variant is checked against
// a scalar reader of the same layout, then timed over all tensors that fit the buffer, and compared with plain reads of the
// same pages just before and just after it. Output: one JSON object a line. See README.md for the layouts and the results.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "../bounce.h"
#include "kernels.h"

// ---------------------------------------------------------------------------------------------- the table of variants

using Kernel = void (*)(const uint8_t*, const Activations&, float*, int, int, long);
struct Variant {
  std::string name;
  size_t bytes;   // of one tensor
  int panels;     // units of work, split evenly over the threads
  Kernel plain, prefetching;
  Expected (*expected)(const uint8_t*, const Activations&, int);
};
template <class L, Read R = Read::Once> Variant integer(const char* name) {
  return {name, L::bytes, L::panels, panel_int8<L, R, false>, panel_int8<L, R, true>, reference<L, false>};
}
template <class L> Variant avx2(const char* name) { return {name, L::bytes, L::panels, panel_avx2<L, false>, panel_avx2<L, true>, reference<L, false>}; }
template <class L, Float T> Variant exact(const char* name) { return {name, L::bytes, L::panels, panel_exact<L, T, false>, panel_exact<L, T, true>, reference<L, true>}; }
template <int R> Variant by_rows(const char* name) { return {name, RowMajor::bytes, N, row_major<R, false>, row_major<R, true>, row_reference}; }

static std::vector<Variant> variants() {
  using H = Head;
  using W = Place;
  return {
      by_rows<1>("b4 row-major, 1 row at a time"),
      by_rows<4>("b4 row-major, 4 rows at a time"),
      integer<Layout<4, 8, 64>>("b4 p8 g64 float"),
      integer<Layout<4, 16, 64>>("b4 p16 g64 float"),
      integer<Layout<4, 16, 64>, Read::Late>("b4 p16 g64 float, header read late"),
      integer<Layout<4, 16, 64, H::Packed>, Read::Again>("b4 p16 g64 packed, lines read again"),
      integer<Layout<4, 32, 64>>("b4 p32 g64 float"),
      integer<Layout<4, 64, 64>>("b4 p64 g64 float"),
      integer<Layout<4, 16, 32>>("b4 p16 g32 float"),
      integer<Layout<4, 16, 128>>("b4 p16 g128 float"),
      integer<Layout<4, 32, 128>>("b4 p32 g128 float"),
      integer<Layout<4, 16, 64, H::Packed>>("b4 p16 g64 packed"),
      integer<Layout<4, 16, 64, H::Pad16>>("b4 p16 g64 packed pad16"),
      integer<Layout<4, 16, 64, H::Pad64>>("b4 p16 g64 packed pad64"),
      integer<Layout<4, 32, 64, H::Packed>>("b4 p32 g64 packed"),
      integer<Layout<4, 16, 128, H::Packed>>("b4 p16 g128 packed"),
      integer<Layout<4, 16, 64, H::Scale>>("b4 p16 g64 no zeros"),
      integer<Layout<4, 16, 64, H::Packed, W::PanelHead>>("b4 p16 g64 packed, heads at panel head"),
      integer<Layout<4, 16, 64, H::Packed, W::Apart>>("b4 p16 g64 packed, heads apart"),
      integer<Layout<4, 16, 64, H::Float, W::PanelHead>>("b4 p16 g64 float, heads at panel head"),
      integer<Layout<4, 16, 64, H::Float, W::Apart>>("b4 p16 g64 float, heads apart"),
      integer<Layout<8, 8, 64>>("b8 p8 g64 float"),
      integer<Layout<8, 16, 64>>("b8 p16 g64 float"),
      integer<Layout<8, 16, 64>, Read::Late>("b8 p16 g64 float, header read late"),
      integer<Layout<8, 32, 64>>("b8 p32 g64 float"),
      integer<Layout<8, 16, 128>>("b8 p16 g128 float"),
      integer<Layout<8, 16, 64, H::Packed>>("b8 p16 g64 packed"),
      integer<Layout<8, 16, 64, H::Scale>>("b8 p16 g64 no zeros"),
      integer<Layout<3, 8, 64>>("b3 p8 g64 float"),
      integer<Layout<3, 16, 64>>("b3 p16 g64 float"),
      integer<Layout<3, 16, 64>, Read::Late>("b3 p16 g64 float, header read late"),
      integer<Layout<3, 16, 64, H::Packed>, Read::Again>("b3 p16 g64 packed, lines read again"),
      integer<Layout<3, 32, 64>>("b3 p32 g64 float"),
      integer<Layout<3, 16, 128>>("b3 p16 g128 float"),
      integer<Layout<3, 16, 64, H::Packed>>("b3 p16 g64 packed"),
      integer<Layout<3, 16, 64, H::Pad64>>("b3 p16 g64 packed pad64"),
      integer<Layout<3, 16, 64, H::Float, W::PanelHead>>("b3 p16 g64 float, heads at panel head"),
      integer<Layout<3, 16, 64, H::Float, W::RowPlanes>>("b3 p16 g64 float, whole-row planes"),
      integer<Layout<2, 8, 64>>("b2 p8 g64 float"),
      integer<Layout<2, 16, 64>>("b2 p16 g64 float"),
      integer<Layout<2, 16, 64>, Read::Late>("b2 p16 g64 float, header read late"),
      integer<Layout<2, 16, 64, H::Packed>, Read::Again>("b2 p16 g64 packed, lines read again"),
      integer<Layout<2, 32, 64>>("b2 p32 g64 float"),
      integer<Layout<2, 64, 64>>("b2 p64 g64 float"),
      integer<Layout<2, 16, 128>>("b2 p16 g128 float"),
      integer<Layout<2, 32, 128>>("b2 p32 g128 float"),
      integer<Layout<2, 16, 64, H::Packed>>("b2 p16 g64 packed"),
      integer<Layout<2, 32, 64, H::Packed>>("b2 p32 g64 packed"),
      integer<Layout<2, 16, 64, H::Pad64>>("b2 p16 g64 packed pad64"),
      integer<Layout<2, 16, 64, H::Packed, W::Apart>>("b2 p16 g64 packed, heads apart"),
      integer<Layout<1, 16, 128>>("b1 p16 g128 float"),
      integer<Layout<5, 16, 64>>("b5 p16 g64 float"),
      integer<Layout<6, 16, 64>>("b6 p16 g64 float"),
      integer<Layout<7, 16, 64>>("b7 p16 g64 float"),
      avx2<Layout<8, 16, 64>>("b8 p16 g64 float, AVX2"),
      avx2<Layout<4, 16, 64>>("b4 p16 g64 float, AVX2"),
      avx2<Layout<3, 16, 64>>("b3 p16 g64 float, AVX2"),
      avx2<Layout<2, 16, 64>>("b2 p16 g64 float, AVX2"),
      exact<Layout<4, 16, 64>, Float::BF16>("b4 p16 g64 float, exact bf16"),
      exact<Layout<4, 16, 64>, Float::FP32>("b4 p16 g64 float, exact fp32"),
  };
}

static void check(const Variant& v, const uint8_t* t, const Activations& a) {
  for (Kernel k : {v.plain, v.prefetching}) {
    std::vector<float> y(N, NAN);
    k(t, a, y.data(), 0, v.panels / 2, 1024), k(t, a, y.data(), v.panels / 2, v.panels, 1024);
    for (int r = 0; r < N; r += r < 64 || r >= N - 64 ? 1 : 61) {
      const Expected e = v.expected(t, a, r);
      if (!(std::fabs(y[r] - e.y) <= 1e-4 * e.size)) {
        std::fprintf(stderr, "%s: row %d is %g, expected %g\n", v.name.c_str(), r, double(y[r]), e.y);
        std::exit(1);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------- timing

static double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct SpinBarrier {
  int threads;
  std::atomic<int> waiting{0}, round{0};
  void wait() {
    const int r = round.load(std::memory_order_relaxed);
    if (waiting.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
      waiting.store(0, std::memory_order_relaxed), round.store(r + 1, std::memory_order_release);
    } else
      while (round.load(std::memory_order_acquire) == r) _mm_pause();
  }
};

static double own_time() {  // of the calling thread
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

struct Elapsed { double seconds, held; };  // held: the part of that time in which the threads did have their CPUs (the least of them)

// Runs work(thread, barrier) on pinned threads, from the first start to the last end.
static Elapsed on_threads(int threads, const std::function<void(int, SpinBarrier&)>& work) {
  struct Job { int cpu; SpinBarrier* b; const std::function<void(int, SpinBarrier&)>* work; double t0, t1, own; pthread_t id; } jobs[2];
  SpinBarrier barrier{threads};
  auto body = [](void* v) -> void* {
    Job& j = *static_cast<Job*>(v);
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(j.cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
    j.b->wait();
    j.t0 = now(), j.own = -own_time();
    (*j.work)(j.cpu, *j.b);
    j.own += own_time(), j.t1 = now();
    return nullptr;
  };
  for (int i = 0; i < threads; i++) jobs[i].cpu = i, jobs[i].b = &barrier, jobs[i].work = &work, pthread_create(&jobs[i].id, nullptr, body, &jobs[i]);
  for (int i = 0; i < threads; i++) pthread_join(jobs[i].id, nullptr);
  const Job &a = jobs[0], &b = jobs[threads - 1];
  return {std::max(a.t1, b.t1) - std::min(a.t0, b.t0), std::min(a.own / (a.t1 - a.t0), b.own / (b.t1 - b.t0))};
}

// The same, again (up to `tries` times) while another process took more than 1.5 % of a CPU.
static Elapsed undisturbed(int threads, const std::function<void(int, SpinBarrier&)>& work, int tries = 4) {
  Elapsed best{0, -1};
  for (int i = 0; i < tries && best.held < 0.985; i++) {
    const Elapsed e = on_threads(threads, work);
    if (e.held > best.held) best = e;
  }
  return best;
}
struct Speed { double gbps, held; };

static std::atomic<long> sink;
template <bool PF> static void read_all(const uint8_t* p, size_t n, long pf) {
  __m512i a[8];
  for (auto& r : a) r = _mm512_setzero_si512();
  for (size_t i = 0; i + 512 <= n; i += 512)
    for (int k = 0; k < 8; k++) ahead<PF>(p + i + 64 * k, pf), a[k] = _mm512_add_epi64(a[k], _mm512_load_si512(p + i + 64 * k));
  for (int k = 1; k < 8; k++) a[0] = _mm512_add_epi64(a[0], a[k]);
  sink += _mm512_reduce_add_epi64(a[0]);
}
static Speed read_gbps(const uint8_t* buf, size_t n, int threads, long pf) {
  const size_t part = n / threads / 4096 * 4096;
  const Elapsed e = undisturbed(threads, [&](int i, SpinBarrier&) { (pf ? read_all<true> : read_all<false>)(buf + i * part, part, pf); });
  return {double(part * threads) / e.seconds / 1e9, e.held};
}

// One GEMV after another over all tensors of the buffer; the threads meet after each, as they must in a model.
static Speed gemv_gbps(const Variant& v, const uint8_t* buf, size_t n, const Activations& a, int threads, long pf, size_t next, int tries = 4) {
  const size_t stride = (v.bytes + 4095) / 4096 * 4096, count = n / stride;
  static float y[N];
  const Elapsed e = undisturbed(threads, [&](int i, SpinBarrier& barrier) {
    const int p0 = v.panels * i / threads, p1 = v.panels * (i + 1) / threads;
    for (size_t k = 0; k < count; k++) {
      (pf ? v.prefetching : v.plain)(buf + k * stride, a, y, p0, p1, pf);
      const uint8_t* mine = buf + (k + 1) % count * stride + size_t(p0) * (v.bytes / v.panels);
      for (size_t o = 0; o < next; o += 64) ahead<true>(mine + o, 0);  // the head of the next tensor, before waiting
      barrier.wait();
    }
  }, tries);
  return {double(count * v.bytes) / e.seconds / 1e9, e.held};
}

// Core-to-core round trip in ns and FMA speed of two threads over one: they tell where the host has put the two virtual cores.
static std::string host_state(double* rtt) {
  auto bounces = [](int i, SpinBarrier&) { bounce(i, 300); };
  auto fma = [](int, SpinBarrier&) {
    __m512 a[10], m = _mm512_set1_ps(0.999f);
    for (auto& r : a) r = m;
    for (int r = 0; r < 50000; r++)
      for (auto& v : a) v = _mm512_fmadd_ps(v, m, m);
    for (int i = 1; i < 10; i++) a[0] = _mm512_add_ps(a[0], a[i]);
    sink += long(_mm512_reduce_add_ps(a[0]));
  };
  *rtt = 1e9;
  for (int i = 0; i < 4; i++) ping = pong = 0, *rtt = std::min(*rtt, on_threads(2, bounces).seconds / 300 * 1e9);
  double one = 1e9, two = 1e9;
  for (int i = 0; i < 3; i++) one = std::min(one, on_threads(1, fma).seconds), two = std::min(two, on_threads(2, fma).seconds);
  return 2 * one / two < 1.5 ? "SMT" : *rtt < 150 ? "1CCD" : "2CCD";
}

// ---------------------------------------------------------------------------------------------- memory

static void fill(uint8_t* p, size_t n) {  // noise in which every 16-bit word, at any offset, is a normal fp16 number
  uint64_t s = 88172645463325252ull;
  for (size_t i = 0; i + 8 <= n; i += 8) {
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    const uint64_t v = (s & 0x9F9F9F9F9F9F9F9Full) | 0x2020202020202020ull;
    std::memcpy(p + i, &v, 8);
  }
}
static uint8_t* huge_memory(size_t n) {
  uint8_t* p = static_cast<uint8_t*>(mmap(nullptr, n + (4u << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  p = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(p) + (2u << 20) - 1) >> 21 << 21);
  madvise(p, n + (1u << 20), MADV_HUGEPAGE);
  fill(p, n + (1u << 20));
  return p;
}
static uint8_t* file_mapping(const char* path, size_t n, int flags) {
  const int fd = open(path, O_RDONLY);
  void* p = mmap(nullptr, n, PROT_READ, MAP_SHARED | flags, fd, 0);
  if (fd < 0 || p == MAP_FAILED) std::perror(path), std::exit(1);
  close(fd);
  return static_cast<uint8_t*>(p);
}
static void write_file(const char* path, const uint8_t* p, size_t n) {
  struct stat st;
  if (stat(path, &st) == 0 && size_t(st.st_size) == n) return;
  const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  for (size_t o = 0; o < n;) {
    const ssize_t w = write(fd, p + o, std::min<size_t>(n - o, 64u << 20));
    if (w <= 0) std::perror(path), std::exit(1);
    o += size_t(w);
  }
  fsync(fd), close(fd);
}

// ---------------------------------------------------------------------------------------------- what is run

struct Options {
  std::string file = "layout.bin", where = "huge,file", threads = "1,2", pf = "0,4096", only, aids;
  size_t mib = 1024, next = 0;
  int rounds = 3;
};
static std::vector<std::string> split(const std::string& s, char sep) {
  std::vector<std::string> out;
  std::stringstream in(s);
  for (std::string part; std::getline(in, part, sep);) out.push_back(part);
  return out;
}

static void compare(const Options& o, const std::vector<Variant>& all, const uint8_t* huge, size_t n, const Activations& a) {
  const uint8_t* mapped = o.where.find("file") == std::string::npos ? nullptr : file_mapping(o.file.c_str(), n, MAP_POPULATE);
  for (int round = 0; round < o.rounds; round++)
    for (const std::string& where : split(o.where, ','))
      for (const std::string& th : split(o.threads, ',')) {
        const uint8_t* buf = where == "file" ? mapped : huge;
        const int threads = std::stoi(th);
        struct Sample { const Variant* v; long pf; Speed speed; size_t before; };
        std::vector<Sample> samples;
        struct Plain { double gbps, held, rtt; std::string state; };
        std::vector<Plain> plain;
        auto read_once = [&] {
          const Speed a0 = read_gbps(buf, n, threads, 0), a1 = read_gbps(buf, n, threads, 4096);
          const Speed best = a0.gbps > a1.gbps ? a0 : a1;
          double rtt;
          const std::string state = host_state(&rtt);
          plain.push_back({best.gbps, best.held, rtt, state});
        };
        read_once();
        int i = 0;
        for (const Variant& v : all)
          for (const std::string& pf : split(o.pf, ',')) {
            samples.push_back({&v, std::stol(pf), gemv_gbps(v, buf, n, a, threads, std::stol(pf), o.next), plain.size() - 1});
            if (++i % 4 == 0) read_once();
          }
        read_once();
        for (const Sample& s : samples) {
          const Plain &before = plain[s.before], &after = plain[s.before + 1];
          const double limit = (before.gbps + after.gbps) / 2, gbps = s.speed.gbps, held = std::min({before.held, after.held, s.speed.held});
          std::printf("{\"variant\":\"%s\",\"prefetch\":%ld,\"next\":%zu,\"where\":\"%s\",\"threads\":%d,\"round\":%d,\"state\":\"%s\",\"rtt\":%.0f,\"held\":%.3f,"
                      "\"gbps\":%.3f,\"plain\":[%.3f,%.3f],\"share\":%.4f,\"weights_per_ns\":%.3f,\"bits_per_weight\":%.4f}\n",
                      s.v->name.c_str(), s.pf, o.next, where.c_str(), threads, round, before.state == after.state ? after.state.c_str() : "moved", after.rtt, held, gbps, before.gbps, after.gbps,
                      gbps / limit, gbps / (double(s.v->bytes) / N / K), double(s.v->bytes) * 8 / N / K);
        }
        std::fflush(stdout);
      }
}

// What the kernel can be told about a mapping: first pass (with its page faults) and later passes, one row each.
static void aids(const Options& o, const Variant& v, size_t n, const Activations& a) {
  struct Aid { const char* name; int flags, advice; };
  const Aid list[] = {{"none", 0, -1}, {"MAP_POPULATE", MAP_POPULATE, -1}, {"MADV_POPULATE_READ", 0, 22}, {"MADV_WILLNEED", 0, MADV_WILLNEED},
                      {"MADV_SEQUENTIAL", 0, MADV_SEQUENTIAL}, {"MADV_HUGEPAGE", 0, MADV_HUGEPAGE}, {"MADV_COLLAPSE", 0, 25}, {"copy to huge pages", 0, -2}};
  const long pf = std::stol(split(o.pf, ',').back());
  for (int round = 0; round < o.rounds; round++)
    for (const Aid& aid : list) {
      double rtt;
      const std::string state = host_state(&rtt);
      const double t0 = now();
      uint8_t *map = file_mapping(o.file.c_str(), n, aid.flags), *buf = map;
      int rc = aid.advice >= 0 ? madvise(map, n, aid.advice) : 0;
      if (aid.advice == -2) {
        uint8_t* raw = static_cast<uint8_t*>(mmap(nullptr, n + (2u << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        buf = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(raw) + (2u << 20) - 1) >> 21 << 21);
        madvise(buf, n, MADV_HUGEPAGE);
        on_threads(2, [&](int i, SpinBarrier&) { std::memcpy(buf + n / 2 * i, map + n / 2 * i, n / 2); });
      }
      const double prepared = now() - t0, first = gemv_gbps(v, buf, n, a, 2, pf, o.next, 1).gbps;
      double later[3];
      for (double& g : later) g = gemv_gbps(v, buf, n, a, 2, pf, o.next).gbps;
      std::sort(later, later + 3);
      const double plain = std::max(read_gbps(buf, n, 2, 0).gbps, read_gbps(buf, n, 2, 4096).gbps);
      std::printf("{\"aid\":\"%s\",\"variant\":\"%s\",\"round\":%d,\"state\":\"%s\",\"rc\":%d,\"prepare_s\":%.4f,\"first\":%.3f,\"later\":%.3f,\"plain\":%.3f}\n",
                  aid.name, v.name.c_str(), round, state.c_str(), rc, prepared, first, later[1], plain);
      std::fflush(stdout);
      munmap(map, n);
      if (buf != map) munmap(buf, n);
    }
}

int main(int argc, char** argv) {
  Options o;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string k = argv[i], v = argv[i + 1];
    if (k == "--file") o.file = v;
    else if (k == "--where") o.where = v;
    else if (k == "--threads") o.threads = v;
    else if (k == "--pf") o.pf = v;            // prefetch distances in bytes; 0: none
    else if (k == "--only") o.only = v;        // parts of names, separated by |
    else if (k == "--mib") o.mib = std::stoul(v);
    else if (k == "--next") o.next = std::stoul(v);  // bytes of the next tensor to prefetch before waiting
    else if (k == "--rounds") o.rounds = std::stoi(v);
    else if (k == "--aids") o.aids = v;        // name of one variant: measure the advice instead
    else return std::fprintf(stderr, "unknown option %s\n", k.c_str()), 2;
  }
  setpriority(PRIO_PROCESS, 0, -20);  // if it may: others wait for the runs, which are short
  const size_t n = o.mib << 20;
  uint8_t* huge = huge_memory(n);
  write_file(o.file.c_str(), huge, n);
  static Activations a = make_activations();
  std::vector<Variant> chosen;
  for (const Variant& v : variants()) {
    bool take = o.only.empty();
    for (const std::string& part : split(o.only, '|')) take |= v.name.find(part) != std::string::npos;
    if (take) check(v, huge + (3u << 20), a), chosen.push_back(v);
    if (v.name == o.aids) return aids(o, v, n, a), 0;
  }
  if (o.aids.empty()) compare(o, chosen, huge, n, a);
  return 0;
}
