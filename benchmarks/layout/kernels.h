// The kernels of the experiment: y = W x over one layout each. `pf` is a prefetch distance in bytes.
#pragma once
#include "layouts.h"

// ---------------------------------------------------------------------------------------------- kernels: panel, int8

template <bool PF> static inline void ahead(const uint8_t* p, long distance) {
  if constexpr (PF) _mm_prefetch(reinterpret_cast<const char*>(p) + distance, _MM_HINT_T0);
}
template <bool PF, size_t Bytes> static inline void ahead_all(const uint8_t* p, long distance) {
#pragma GCC unroll 16
  for (size_t o = 0; o < Bytes; o += 64) ahead<PF>(p + o, distance);
}

// dot[v] += Σ code · x << shift over one plane of one run. A field is masked where it lies and has its own accumulator, which is
// shifted down once at the end: no shift per register (a 1-bit plane is folded once, so it needs four accumulators, not eight).
template <int W, int P, int BS, bool Once, bool PF, int V>
static inline void plane_dot(const uint8_t* at, const uint32_t* x, int shift, long pf, __m512i (&dot)[V]) {
  constexpr int F = 8 / W, A = W == 8 ? (V == 1 ? 4 : V == 2 ? 2 : 1) : W == 1 ? 4 : F, wide = P < 16 ? 2 : 1;
  constexpr int steps = BS * W / 32 / wide;
  __m512i acc[A][V];
  for (auto& row : acc)
    for (auto& r : row) r = _mm512_setzero_si512();
#pragma GCC unroll 16
  for (int s = 0; s < steps; s++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      const uint8_t* line = at + (s * V + v) * 64;
      ahead<PF>(line, pf);
      __m512i c = _mm512_loadu_si512(line);
      if (Once) asm("" : "+v"(c));  // else the compiler reads the line again for every field, as an operand of vpandd
      const __m512i folded = W == 1 ? _mm512_srli_epi16(c, 4) : c;
#pragma GCC unroll 8
      for (int j = 0; j < F; j++) {
        const __m512i field = W == 8 ? c : _mm512_and_si512(W == 1 && j > 3 ? folded : c, _mm512_set1_epi8(char(((1 << W) - 1) << (j * W % (W == 1 ? 4 : 8)))));
        __m512i xs = _mm512_set1_epi32(int(x[s * wide * F + j]));
        if constexpr (wide == 2) xs = _mm512_mask_set1_epi32(xs, 0xFF00, int(x[(s * 2 + 1) * F + j]));
        __m512i& to = acc[W == 8 ? s % A : j % A][v];
        to = _mm512_dpbusd_epi32(to, field, xs);
      }
    }
  for (int v = 0; v < V; v++) {
    __m512i sum = acc[0][v];
#pragma GCC unroll 4
    for (int j = 1; j < A; j++) sum = _mm512_add_epi32(sum, W == 8 ? acc[j][v] : _mm512_srai_epi32(acc[j][v], j * W));
    dot[v] = _mm512_add_epi32(dot[v], _mm512_slli_epi32(sum, shift));
  }
}

template <class L> static inline __m512 load_scales(const uint8_t* head, int v) {
  if constexpr (L::rows == 8) return _mm512_cvtph_ps(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)head)));
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(head + 32 * v)));
}
template <class L> static inline __m512 load_zeros(const uint8_t* head, int v) {
  if constexpr (L::heads == Head::Scale) return _mm512_setzero_ps();
  if constexpr (L::heads == Head::Float) return load_scales<L>(head + 2 * L::rows, v);
  static_assert(L::rows >= 16 || L::heads == Head::Float || L::heads == Head::Scale, "packed zeros: 16 rows and more");
  const uint8_t* z = head + 2 * L::rows + 2 * L::bits * v;  // 16 zeros of `bits` bits: two quadwords, one vpmultishiftqb
  int64_t lo, hi;
  std::memcpy(&lo, z, 8), std::memcpy(&hi, z + L::bits, 8);
  const long long step = 0x0706050403020100ll * L::bits;
  __m128i c = _mm_multishift_epi64_epi8(_mm_set1_epi64x(step), _mm_set_epi64x(hi, lo));
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(c, _mm_set1_epi8(char((1 << L::bits) - 1)))));
}

// Once: the header before its codes, each line of codes by one load. Late: the header after its codes. Again: as the compiler likes.
enum class Read { Once, Late, Again };

template <class L, Read R, bool PF> void panel_int8(const uint8_t* t, const Activations& a, float* y, int p0, int p1, long pf) {
  constexpr int P = L::rows, B = L::bits, V = P < 16 ? 1 : P / 16;
  for (int p = p0; p < p1; p++) {
    __m512 acc[V];
    for (auto& r : acc) r = _mm512_setzero_ps();
    for (int g = 0; g < L::groups; g++) {
      const uint8_t* head = L::head_at(t, p, g);
      ahead_all<PF, L::head>(head, pf);
      __m512 sum[V], scales[V], zeros[V];
      for (auto& r : sum) r = _mm512_setzero_ps();
      auto read_header = [&] {
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
          scales[v] = load_scales<L>(head, v), zeros[v] = load_zeros<L>(head, v);
          if (R == Read::Once) asm volatile("" : "+v"(scales[v]), "+v"(zeros[v]));  // else the compiler moves it down
        }
      };
      if (R != Read::Late) read_header();
#pragma GCC unroll 2
      for (int r = 0; r < L::runs; r++) {
        const int first = g * L::group + r * L::BS;
        const uint32_t* x = reinterpret_cast<const uint32_t*>(a.q + first);
        __m512i dot[V];
        for (auto& d : dot) d = _mm512_setzero_si512();
        if constexpr (B & 8) plane_dot<8, P, L::BS, R != Read::Again, PF>(L::plane_at(t, p, g, r, 8, 0), x, 0, pf, dot);
        if constexpr (B & 4) plane_dot<4, P, L::BS, R != Read::Again, PF>(L::plane_at(t, p, g, r, 4, 0), x, 0, pf, dot);
        if constexpr (B & 2) plane_dot<2, P, L::BS, R != Read::Again, PF>(L::plane_at(t, p, g, r, 2, B & 4), x, B & 4, pf, dot);
        if constexpr (B & 1) plane_dot<1, P, L::BS, R != Read::Again, PF>(L::plane_at(t, p, g, r, 1, B & 6), x, B & 6, pf, dot);
        for (int v = 0; v < V; v++) sum[v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[v]), _mm512_set1_ps(a.scale[first / 64]), sum[v]);
      }
      const __m512 xsum = _mm512_set1_ps(a.sums<L::group>()[g] * (P < 16 ? 0.5f : 1.0f));  // P = 8: both halves subtract it
      if (R == Read::Late) read_header();
      for (int v = 0; v < V; v++) acc[v] = _mm512_fmadd_ps(scales[v], _mm512_fnmadd_ps(zeros[v], xsum, sum[v]), acc[v]);
    }
    if constexpr (P == 8)
      _mm256_storeu_ps(y + p * P, _mm256_add_ps(_mm512_castps512_ps256(acc[0]), _mm512_extractf32x8_ps(acc[0], 1)));
    else
      for (int v = 0; v < V; v++) _mm512_storeu_ps(y + p * P + 16 * v, acc[v]);
  }
}

// ---------------------------------------------------------------------------------------------- kernels: panel, AVX2 only

// Two halves of 8 rows. vpmaddubsw adds pairs into int16: 4-bit codes allow 8 such sums, 2- and 1-bit codes a whole run; 8-bit
// codes would saturate, so they go as two nibbles. (The compiler may use all 32 registers here; the instructions are AVX2's.)
template <int W, bool PF> static inline void plane_dot_avx2(const uint8_t* at, const uint32_t* x, int shift, long pf, __m256i (&dot)[2]) {
  constexpr int F = 8 / W, steps = W * 2, flush = W >= 4 ? 4 : steps;
  const __m256i ones = _mm256_set1_epi16(1), mask = _mm256_set1_epi8(W == 8 ? 15 : (1 << W) - 1);
  __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (int s0 = 0; s0 < steps; s0 += flush) {
    __m256i low[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()}, high[2] = {low[0], low[0]};
#pragma GCC unroll 4
    for (int s = s0; s < s0 + flush; s++) {
      if (PF) _mm_prefetch((const char*)at + s * 64 + pf, _MM_HINT_T0);
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) {
        __m256i c = _mm256_loadu_si256((const __m256i*)(at + s * 64 + 32 * h));
        asm("" : "+v"(c));
#pragma GCC unroll 8
        for (int j = 0; j < F; j++) {
          const __m256i xs = _mm256_set1_epi32(int(x[s * F + j]));
          low[h] = _mm256_add_epi16(low[h], _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(c, j * W), mask), xs));
          if (W == 8) high[h] = _mm256_add_epi16(high[h], _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(c, 4), mask), xs));
        }
      }
    }
    for (int h = 0; h < 2; h++) {
      sum[h] = _mm256_add_epi32(sum[h], _mm256_madd_epi16(low[h], ones));
      if (W == 8) sum[h] = _mm256_add_epi32(sum[h], _mm256_slli_epi32(_mm256_madd_epi16(high[h], ones), 4));
    }
  }
  for (int h = 0; h < 2; h++) dot[h] = _mm256_add_epi32(dot[h], _mm256_slli_epi32(sum[h], shift));
}
template <class L, bool PF> void panel_avx2(const uint8_t* t, const Activations& a, float* y, int p0, int p1, long pf) {
  static_assert(L::rows == 16 && L::group == 64 && L::heads == Head::Float, "");
  constexpr int B = L::bits;
  for (int p = p0; p < p1; p++) {
    __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int g = 0; g < L::groups; g++) {
      const uint8_t* head = L::head_at(t, p, g);
      if (PF) _mm_prefetch((const char*)head + pf, _MM_HINT_T0);
      const uint32_t* x = reinterpret_cast<const uint32_t*>(a.q + g * 64);
      __m256i dot[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
      if constexpr (B & 8) plane_dot_avx2<8, PF>(L::plane_at(t, p, g, 0, 8, 0), x, 0, pf, dot);
      if constexpr (B & 4) plane_dot_avx2<4, PF>(L::plane_at(t, p, g, 0, 4, 0), x, 0, pf, dot);
      if constexpr (B & 2) plane_dot_avx2<2, PF>(L::plane_at(t, p, g, 0, 2, B & 4), x, B & 4, pf, dot);
      if constexpr (B & 1) plane_dot_avx2<1, PF>(L::plane_at(t, p, g, 0, 1, B & 6), x, B & 6, pf, dot);
      for (int h = 0; h < 2; h++) {
        const __m256 s = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(head + 16 * h)));
        const __m256 z = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(head + 32 + 16 * h)));
        const __m256 d = _mm256_mul_ps(_mm256_cvtepi32_ps(dot[h]), _mm256_set1_ps(a.scale[g]));
        acc[h] = _mm256_fmadd_ps(s, _mm256_fnmadd_ps(z, _mm256_set1_ps(a.sum64[g]), d), acc[h]);
      }
    }
    for (int h = 0; h < 2; h++) _mm256_storeu_ps(y + p * 16 + 8 * h, acc[h]);
  }
}

// ---------------------------------------------------------------------------------------------- kernels: panel, exact

enum class Float { BF16, FP32 };
// 4-bit codes through a table of 16 values. bf16: vpermw reads 5 index bits, so a table doubled to 32 entries needs no mask.
template <class L, Float T, bool PF> void panel_exact(const uint8_t* t, const Activations& a, float* y, int p0, int p1, long pf) {
  static_assert(L::rows == 16 && L::group == 64 && L::bits == 4, "");
  alignas(64) uint16_t words[32];
  alignas(64) float floats[16];
  for (int i = 0; i < 32; i++) {
    const float v = float(i % 16);
    uint32_t u;
    std::memcpy(&u, &v, 4);
    words[i] = uint16_t(u >> 16), floats[i % 16] = v;
  }
  const __m512i table16 = _mm512_load_si512(words);
  const __m512 table32 = _mm512_load_ps(floats);
  for (int p = p0; p < p1; p++) {
    __m512 acc = _mm512_setzero_ps();
    for (int g = 0; g < L::groups; g++) {
      const uint8_t *head = L::head_at(t, p, g), *at = L::plane_at(t, p, g, 0, 4, 0);
      ahead_all<PF, L::head>(head, pf);
      __m512 sum[4];
      for (auto& r : sum) r = _mm512_setzero_ps();
#pragma GCC unroll 8
      for (int s = 0; s < 8; s++) {
        ahead<PF>(at + s * 64, pf);
        __m512i c = _mm512_loadu_si512(at + s * 64);
        asm("" : "+v"(c));
        if constexpr (T == Float::BF16) {
#pragma GCC unroll 4
          for (int j = 0; j < 4; j++) {
            const __m512i w = _mm512_permutexvar_epi16(_mm512_srli_epi16(c, 4 * j), table16);
            sum[j] = _mm512_dpbf16_ps(sum[j], (__m512bh)w, (__m512bh)_mm512_set1_epi32(int(a.pair[g * 32 + s * 4 + j])));
          }
        } else {
#pragma GCC unroll 8
          for (int i = 0; i < 8; i++) {  // input i lies in byte i % 4, field i / 4
            const __m512 w = _mm512_permutexvar_ps(_mm512_srli_epi32(c, 8 * (i % 4) + 4 * (i / 4)), table32);
            sum[i % 4] = _mm512_fmadd_ps(w, _mm512_set1_ps(a.x[g * 64 + s * 8 + i]), sum[i % 4]);
          }
        }
      }
      const __m512 dot = _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3]));
      acc = _mm512_fmadd_ps(load_scales<L>(head, 0), _mm512_fnmadd_ps(load_zeros<L>(head, 0), _mm512_set1_ps(a.fsum64[g]), dot), acc);
    }
    _mm512_storeu_ps(y + p * 16, acc);
  }
}

// ---------------------------------------------------------------------------------------------- kernels: row-major

// Per row, per 64 inputs: fp16 scale, fp16 zero, 32 bytes of nibbles (low: inputs 0..31, high: 32..63). R rows are walked at once.
struct RowMajor {
  static constexpr int bits = 4, rows = 1, panels = N;
  static constexpr size_t row = size_t(K) / 64 * 36, bytes = row * N;
};
template <int R, bool PF> void row_major(const uint8_t* t, const Activations& a, float* y, int r0, int r1, long pf) {
  for (int r = r0; r < r1; r += R) {
    __m512 acc[R];
    float low[R] = {};
    for (auto& v : acc) v = _mm512_setzero_ps();
    for (int g = 0; g < K / 64; g++)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) {
        const uint8_t* b = t + (r + i) * RowMajor::row + g * 36;
        ahead<PF>(b, pf);
        const __m256i c = _mm256_loadu_si256((const __m256i*)(b + 4));
        const __m512i codes = _mm512_and_si512(_mm512_inserti64x4(_mm512_castsi256_si512(c), _mm256_srli_epi16(c, 4), 1), _mm512_set1_epi8(15));
        const __m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, _mm512_load_si512(a.q + g * 64));
        const float s = half(b);
        acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(s * a.scale[g]), acc[i]);
        low[i] += s * half(b + 2) * a.sum64[g];
      }
    for (int i = 0; i < R; i++) y[r + i] = _mm512_reduce_add_ps(acc[i]) - low[i];
  }
}
static Expected row_reference(const uint8_t* t, const Activations& a, int r) {
  Expected e{0, 0};
  for (int i = 0; i < K; i++) {
    const uint8_t* b = t + r * RowMajor::row + i / 64 * 36;
    const double s = half(b), z = half(b + 2), x = double(a.scale[i / 64]) * a.q[i];
    const int c = (b[4 + i % 32] >> (i % 64 / 32 * 4)) & 15;
    e.y += s * (c - z) * x, e.size += std::fabs(s * x) * (c + std::fabs(z));
  }
  return e;
}
