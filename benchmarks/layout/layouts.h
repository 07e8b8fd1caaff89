// The layouts of the experiment, each with a scalar reader that defines it, and the activations.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

using std::size_t;
using std::uint32_t;
using std::uint8_t;
constexpr int N = 4096, K = 4096;  // out_features, in_features

// ---------------------------------------------------------------------------------------------- activations

struct Activations {
  alignas(64) int8_t q[K];        // int8 codes, dynamic scale per 64 inputs
  alignas(64) float x[K];         // what `exact` sees (bf16 values, so one reference serves bf16 and fp32)
  alignas(64) uint32_t pair[K / 2];  // bf16 pairs in the order of the 4-bit dwords: inputs (0,2)(4,6)(1,3)(5,7) of each 8
  float scale[K / 64];            // s_x
  float sum32[K / 32], sum64[K / 64], sum128[K / 128];  // s_x · Σ x_q of each group
  float fsum64[K / 64];           // Σ x of each group, for `exact`
  template <int G> const float* sums() const { return G == 32 ? sum32 : G == 64 ? sum64 : sum128; }
};

static Activations make_activations() {
  static Activations a;
  uint32_t s = 1;
  for (int i = 0; i < K; i++) {
    s = s * 1664525u + 1013904223u;
    float v = float(int32_t(s)) / 2147483648.0f;
    uint32_t u;
    std::memcpy(&u, &v, 4);
    u &= 0xFFFF0000u;  // a bf16 value
    std::memcpy(&a.x[i], &u, 4);
  }
  for (int b = 0; b < K / 64; b++) {
    float top = 0;
    for (int i = 0; i < 64; i++) top = std::max(top, std::fabs(a.x[b * 64 + i]));
    a.scale[b] = top / 127;
    for (int i = 0; i < 64; i++) a.q[b * 64 + i] = int8_t(std::lrint(a.x[b * 64 + i] / a.scale[b]));
  }
  for (int i = 0; i < K; i++) {
    float v = a.scale[i / 64] * a.q[i];
    a.sum32[i / 32] += v, a.sum64[i / 64] += v, a.sum128[i / 128] += v, a.fsum64[i / 64] += a.x[i];
  }
  const int order[4][2] = {{0, 2}, {4, 6}, {1, 3}, {5, 7}};
  for (int t = 0; t < K / 8; t++)
    for (int j = 0; j < 4; j++) {
      uint32_t lo, hi;
      std::memcpy(&lo, &a.x[t * 8 + order[j][0]], 4), std::memcpy(&hi, &a.x[t * 8 + order[j][1]], 4);
      a.pair[t * 4 + j] = (lo >> 16) | (hi & 0xFFFF0000u);
    }
  return a;
}

// ---------------------------------------------------------------------------------------------- layouts

enum class Head { Float, Packed, Pad16, Pad64, Scale };  // zeros: fp16 | `bits` bits each | the same, padded | none
enum class Place { Inline, PanelHead, Apart, RowPlanes };  // heads: before their codes | at the panel's head | own array | (planes apart)

// Panels of P rows; inside, groups of G inputs; a group is a head and runs of BS inputs; a run is one stretch per plane.
template <int B, int P, int G, Head H = Head::Float, Place W = Place::Inline>
struct Layout {
  static constexpr int bits = B, rows = P, group = G, BS = G < 64 ? G : 64, runs = G / BS, groups = K / G, panels = N / P;
  static constexpr Head heads = H;
  static constexpr Place place = W;
  static constexpr size_t round(size_t n, size_t to) { return (n + to - 1) / to * to; }
  static constexpr size_t zeros = H == Head::Float ? 2 * P : H == Head::Scale ? 0 : P * B / 8;
  static constexpr size_t head = round(2 * P + zeros, H == Head::Pad16 ? 16 : H == Head::Pad64 ? 64 : 1);
  static constexpr size_t run = size_t(P) * BS * B / 8, codes = run * runs;
  static constexpr size_t heads_of_panel = round(head * groups, 64);
  static constexpr size_t panel = W == Place::Inline ? (head + codes) * groups : W == Place::Apart ? codes * groups
                                                                             : heads_of_panel + codes * groups;
  static constexpr size_t bytes = panel * panels + (W == Place::Apart ? heads_of_panel * panels : 0);
  static const uint8_t* head_at(const uint8_t* t, int p, int g) {
    if constexpr (W == Place::Inline) return t + p * panel + g * (head + codes);
    if constexpr (W == Place::Apart) return t + panel * panels + p * heads_of_panel + g * head;
    return t + p * panel + g * head;
  }
  // the plane that starts at bit `before` of run r of group g
  static const uint8_t* plane_at(const uint8_t* t, int p, int g, int r, int w, int before) {
    const size_t in_run = size_t(P) * BS * before / 8, stretch = size_t(P) * BS * w / 8;
    if constexpr (W == Place::Inline) return t + p * panel + g * (head + codes) + head + r * run + in_run;
    if constexpr (W == Place::Apart) return t + p * panel + g * codes + r * run + in_run;
    if constexpr (W == Place::PanelHead) return t + p * panel + heads_of_panel + g * codes + r * run + in_run;
    return t + p * panel + heads_of_panel + in_run * (K / BS) + (g * runs + r) * stretch;
  }
};

static float half(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return _cvtsh_ss(h);
}

// The definition, one weight at a time: byte k, field j of a dword holds input 4j + k of the 32/w inputs of that dword.
template <class L> int code_at(const uint8_t* t, int row, int input) {
  const int p = row / L::rows, lane = row % L::rows, g = input / L::group, r = input % L::group / L::BS, i = input % L::BS;
  int code = 0, before = 0;
  for (int w = 8; w; w >>= 1) {
    if (!(L::bits & w)) continue;
    const int step = i / (32 / w), j = i % (32 / w) / 4, k = i % 4;
    const uint8_t* at = L::plane_at(t, p, g, r, w, before) + size_t(step * L::rows + lane) * 4 + k;
    code |= ((*at >> (j * w)) & ((1 << w) - 1)) << before;
    before += w;
  }
  return code;
}
template <class L> float zero_at(const uint8_t* head, int lane) {
  if (L::heads == Head::Scale) return 0;
  if (L::heads == Head::Float) return half(head + 2 * L::rows + 2 * lane);
  uint32_t v = 0;
  const int bit = lane * L::bits;
  for (int i = 0; i < L::bits; i++) v |= ((head[2 * L::rows + (bit + i) / 8] >> ((bit + i) % 8)) & 1u) << i;
  return float(v);
}
struct Expected { double y, size; };  // size: Σ of the magnitudes of the terms, the yardstick of rounding errors
template <class L, bool Exact> Expected reference(const uint8_t* t, const Activations& a, int row) {
  Expected e{0, 0};
  for (int g = 0; g < L::groups; g++) {
    const uint8_t* head = L::head_at(t, row / L::rows, g);
    const double s = half(head + 2 * (row % L::rows)), z = zero_at<L>(head, row % L::rows);
    for (int i = g * L::group; i < (g + 1) * L::group; i++) {
      const double x = Exact ? double(a.x[i]) : double(a.scale[i / 64]) * a.q[i];
      const int c = code_at<L>(t, row, i);
      e.y += s * (c - z) * x, e.size += std::fabs(s * x) * (c + std::fabs(z));
    }
  }
  return e;
}
