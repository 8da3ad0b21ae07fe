// The instructions of AVX-512 and AMX that kernels/cpu/gemm/isa uses, lane by lane, so that these levels compute on a
// machine that has neither: for a unit of theirs, compiled with this folder before those of the compiler's headers and
// without the flags of its level. Vectors are those of the compiler, which knows wider ones than the machine.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#pragma GCC diagnostic ignored "-Wignored-attributes"
#define MYOPS_IN_REGISTER "+m"  // no register is as wide

typedef float __m128 __attribute__((vector_size(16), may_alias));
typedef float __m256 __attribute__((vector_size(32), may_alias));
typedef float __m512 __attribute__((vector_size(64), may_alias));
typedef long long __m128i __attribute__((vector_size(16), may_alias));
typedef long long __m256i __attribute__((vector_size(32), may_alias));
typedef long long __m512i __attribute__((vector_size(64), may_alias));
typedef uint16_t __m256bh __attribute__((vector_size(32), may_alias));
typedef uint16_t __m512bh __attribute__((vector_size(64), may_alias));
typedef uint8_t __mmask8;
typedef uint16_t __mmask16;
typedef uint32_t __mmask32;
typedef uint64_t __mmask64;

#define _MM_FROUND_TO_NEAREST_INT 0
#define _MM_FROUND_NO_EXC 8

namespace x86 {

// The lanes of a vector as numbers of type T.
template <class T, class V>
struct Lanes {
  static constexpr int count = sizeof(V) / sizeof(T);
  T at[count];
  Lanes() = default;
  explicit Lanes(V v) { std::memcpy(at, &v, sizeof(v)); }
  operator V() const {
    V v;
    std::memcpy(&v, at, sizeof(v));
    return v;
  }
};

template <class T, class V>
inline V load_lanes(uint64_t mask, const void* p) {
  Lanes<T, V> v(V{});
  for (int i = 0; i < v.count; ++i)
    if (mask >> i & 1) std::memcpy(&v.at[i], static_cast<const T*>(p) + i, sizeof(T));
  return v;
}
template <class T, class V>
inline void store_lanes(void* p, uint64_t mask, V v) {
  const Lanes<T, V> lanes(v);
  for (int i = 0; i < lanes.count; ++i)
    if (mask >> i & 1) std::memcpy(static_cast<T*>(p) + i, &lanes.at[i], sizeof(T));
}
template <class To, class From, class Wide, class V>
inline Wide convert(V v) {
  const Lanes<From, V> from(v);
  Lanes<To, Wide> to;
  for (int i = 0; i < to.count; ++i) to.at[i] = static_cast<To>(from.at[i]);
  return to;
}
template <class V>
inline V permute(V v, int control) {  // within four
  const Lanes<float, V> from(v);
  Lanes<float, V> to;
  for (int i = 0; i < to.count; ++i) to.at[i] = from.at[i / 4 * 4 + (control >> (i % 4 * 2) & 3)];
  return to;
}
template <class V>
inline V four(const void* p) {
  Lanes<float, V> to;
  for (int i = 0; i < to.count; ++i) std::memcpy(&to.at[i], static_cast<const float*>(p) + i % 4, sizeof(float));
  return to;
}
template <class V>
inline V shift_left(V v, int count) {
  Lanes<uint32_t, V> lanes(v);
  for (uint32_t& lane : lanes.at) lane <<= count;
  return lanes;
}

// A bfloat16, and what arithmetic does with subnormals: they are zero.
inline float no_subnormal(float v) { return std::fpclassify(v) == FP_SUBNORMAL ? std::copysign(0.0f, v) : v; }
inline float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float v;
  std::memcpy(&v, &wide, sizeof(v));
  return no_subnormal(v);
}
inline uint16_t to_bf16(float v) {
  v = no_subnormal(v);
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof(bits));
  if (std::isnan(v)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float add_pair(float sum, const uint16_t* a, const uint16_t* b) {
  for (int i = 1; i >= 0; --i) sum = no_subnormal(std::fma(from_bf16(a[i]), from_bf16(b[i]), no_subnormal(sum)));
  return sum;
}

}  // namespace x86

#define X86_MASKED(width, lane, T, V, Mask)                                                                \
  inline V width##_maskz_loadu_##lane(Mask mask, const void* p) { return x86::load_lanes<T, V>(mask, p); } \
  inline void width##_mask_storeu_##lane(void* p, Mask mask, V v) { x86::store_lanes<T, V>(p, mask, v); }
X86_MASKED(_mm, epi8, uint8_t, __m128i, __mmask16)
X86_MASKED(_mm256, epi8, uint8_t, __m256i, __mmask32)
X86_MASKED(_mm256, epi16, uint16_t, __m256i, __mmask16)
X86_MASKED(_mm256, epi32, uint32_t, __m256i, __mmask8)
X86_MASKED(_mm256, epi64, uint64_t, __m256i, __mmask8)
X86_MASKED(_mm512, epi8, uint8_t, __m512i, __mmask64)
X86_MASKED(_mm512, epi16, uint16_t, __m512i, __mmask32)
X86_MASKED(_mm512, epi32, uint32_t, __m512i, __mmask16)
X86_MASKED(_mm512, epi64, uint64_t, __m512i, __mmask8)
#undef X86_MASKED

inline __m128i _mm_loadu_si128(const __m128i* p) { return x86::load_lanes<uint64_t, __m128i>(3, p); }
inline __m256i _mm256_loadu_si256(const __m256i* p) { return x86::load_lanes<uint64_t, __m256i>(15, p); }
inline __m128 _mm_loadu_ps(const float* p) { return x86::four<__m128>(p); }
inline __m128i _mm_setzero_si128() { return __m128i{}; }

#define X86_CONVERT(name, To, From, Wide, V) \
  inline Wide name(V v) { return x86::convert<To, From, Wide>(v); }
X86_CONVERT(_mm256_cvtepu16_epi32, uint32_t, uint16_t, __m256i, __m128i)
X86_CONVERT(_mm512_cvtepi8_epi32, int32_t, int8_t, __m512i, __m128i)
X86_CONVERT(_mm512_cvtepu8_epi32, uint32_t, uint8_t, __m512i, __m128i)
X86_CONVERT(_mm512_cvtepi8_epi16, int16_t, int8_t, __m512i, __m256i)
X86_CONVERT(_mm512_cvtepu8_epi16, uint16_t, uint8_t, __m512i, __m256i)
X86_CONVERT(_mm512_cvtepi16_epi32, int32_t, int16_t, __m512i, __m256i)
X86_CONVERT(_mm512_cvtepu16_epi32, uint32_t, uint16_t, __m512i, __m256i)
X86_CONVERT(_mm256_cvtph_ps, float, _Float16, __m256, __m128i)
X86_CONVERT(_mm512_cvtph_ps, float, _Float16, __m512, __m256i)
#undef X86_CONVERT
inline __m128i _mm256_cvtps_ph(__m256 v, int) { return x86::convert<_Float16, float, __m128i>(v); }
inline __m256i _mm512_cvtps_ph(__m512 v, int) { return x86::convert<_Float16, float, __m256i>(v); }

inline __m256i _mm256_slli_epi32(__m256i v, int count) { return x86::shift_left(v, count); }
inline __m512i _mm512_slli_epi32(__m512i v, int count) { return x86::shift_left(v, count); }
inline __m256 _mm256_permute_ps(__m256 v, int control) { return x86::permute(v, control); }
inline __m512 _mm512_permute_ps(__m512 v, int control) { return x86::permute(v, control); }
inline __m256 _mm256_broadcast_ps(const __m128* p) { return x86::four<__m256>(p); }
inline __m512 _mm512_broadcast_f32x4(__m128 v) { return x86::four<__m512>(&v); }

// Sums wrap.
inline __m512i _mm512_dpwssd_epi32(__m512i sum, __m512i a, __m512i b) {
  x86::Lanes<uint32_t, __m512i> d(sum);
  const x86::Lanes<int16_t, __m512i> x(a), y(b);
  for (int i = 0; i < 32; ++i) d.at[i / 2] += static_cast<uint32_t>(x.at[i] * y.at[i]);
  return d;
}
inline __m512i _mm512_madd_epi16(__m512i a, __m512i b) { return _mm512_dpwssd_epi32(__m512i{}, a, b); }
inline __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  x86::Lanes<uint32_t, __m512i> d(sum);
  const x86::Lanes<uint8_t, __m512i> x(a);
  const x86::Lanes<int8_t, __m512i> y(b);
  for (int i = 0; i < 64; ++i) d.at[i / 4] += static_cast<uint32_t>(x.at[i] * y.at[i]);
  return d;
}
inline __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  x86::Lanes<float, __m512> d(sum);
  const x86::Lanes<uint16_t, __m512bh> x(a), y(b);
  for (int i = 0; i < 16; ++i) d.at[i] = x86::add_pair(d.at[i], x.at + 2 * i, y.at + 2 * i);
  return d;
}
inline __m256bh _mm512_cvtneps_pbh(__m512 v) {
  const x86::Lanes<float, __m512> from(v);
  x86::Lanes<uint16_t, __m256bh> to;
  for (int i = 0; i < 16; ++i) to.at[i] = x86::to_bf16(from.at[i]);
  return to;
}

// The tiles of a thread. What the processor answers with an exception or leaves undefined ends the process.
namespace x86 {

struct Tiles {
  bool configured;
  int rows[8], row_bytes[8];
  alignas(64) uint8_t at[8][16][64];
};
inline thread_local Tiles tiles = {};

inline void need(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "AMX: %s\n", what);
  std::abort();
}
inline void need_tile(int t) { need(tiles.configured && tiles.rows[t] > 0, "a tile that is not configured"); }

// d[m][n] = finish(d[m][n], the sum of the products along k of 4 bytes each).
template <class Sum, class D, class Add, class Finish>
inline void tile_product(int d, int a, int b, Add add, Finish finish) {
  need_tile(d), need_tile(a), need_tile(b);
  const int m = tiles.rows[d], n = tiles.row_bytes[d] / 4, k = tiles.row_bytes[a] / 4;
  need(tiles.rows[a] == m && tiles.rows[b] == k && tiles.row_bytes[b] == 4 * n && d != a && d != b && a != b,
       "tiles of a product that do not fit");
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      Sum sum = {};
      for (int s = 0; s < k; ++s) add(sum, tiles.at[a][i] + 4 * s, tiles.at[b][s] + 4 * j);
      D element;
      std::memcpy(&element, tiles.at[d][i] + 4 * j, 4);
      element = finish(element, sum);
      std::memcpy(tiles.at[d][i] + 4 * j, &element, 4);
    }
}
// The first of each pair, and the second, are summed apart. widen(bits): a 16-bit float.
struct Pair {
  float sums[2];
};
template <class Widen>
inline void float_product(int d, int a, int b, Widen widen) {
  const auto add = [&](Pair& pair, const uint8_t* x, const uint8_t* y) {
    uint16_t p[2], q[2];
    std::memcpy(p, x, 4), std::memcpy(q, y, 4);
    for (int i = 0; i < 2; ++i) pair.sums[i] = no_subnormal(std::fma(widen(p[i]), widen(q[i]), pair.sums[i]));
  };
  tile_product<Pair, float>(d, a, b, add, [](float element, const Pair& pair) {
    return no_subnormal(no_subnormal(element) + no_subnormal(pair.sums[0] + pair.sums[1]));
  });
}
template <class T>
inline void byte_product(int d, int a, int b) {
  const auto add = [](uint32_t& sum, const uint8_t* x, const uint8_t* y) {
    for (int i = 0; i < 4; ++i) sum += static_cast<uint32_t>(static_cast<T>(x[i]) * static_cast<T>(y[i]));
  };
  tile_product<uint32_t, uint32_t>(d, a, b, add, [](uint32_t element, uint32_t sum) { return element + sum; });
}

}  // namespace x86

inline void _tile_loadconfig(const void* p) {
  const uint8_t* config = static_cast<const uint8_t*>(p);
  x86::need(config[0] == 1 && config[1] == 0, "palette and first row");
  for (int i = 2; i < 64; ++i)
    x86::need((i >= 16 && i < 32) || (i >= 48 && i < 56) || config[i] == 0, "what is reserved, or of more tiles");
  x86::tiles = {};
  x86::tiles.configured = true;
  for (int t = 0; t < 8; ++t) {
    x86::tiles.rows[t] = config[48 + t], x86::tiles.row_bytes[t] = config[16 + 2 * t] | config[17 + 2 * t] << 8;
    x86::need(x86::tiles.rows[t] <= 16 && x86::tiles.row_bytes[t] <= 64 &&
                  (x86::tiles.rows[t] == 0) == (x86::tiles.row_bytes[t] == 0),
              "the size of a tile");
  }
}
inline void _tile_release() { x86::tiles.configured = false; }
inline void _tile_zero(int t) {
  x86::need_tile(t);
  std::memset(x86::tiles.at[t], 0, sizeof(x86::tiles.at[t]));
}
inline void _tile_loadd(int t, const void* p, int64_t row_bytes) {
  _tile_zero(t);
  for (int i = 0; i < x86::tiles.rows[t]; ++i)
    std::memcpy(x86::tiles.at[t][i], static_cast<const uint8_t*>(p) + i * row_bytes, x86::tiles.row_bytes[t]);
}
inline void _tile_stored(int t, void* p, int64_t row_bytes) {
  x86::need_tile(t);
  for (int i = 0; i < x86::tiles.rows[t]; ++i)
    std::memcpy(static_cast<uint8_t*>(p) + i * row_bytes, x86::tiles.at[t][i], x86::tiles.row_bytes[t]);
}
inline void _tile_dpbf16ps(int d, int a, int b) { x86::float_product(d, a, b, x86::from_bf16); }
inline void _tile_dpfp16ps(int d, int a, int b) {  // takes subnormals
  x86::float_product(d, a, b, [](uint16_t bits) {
    _Float16 v;
    std::memcpy(&v, &bits, sizeof(v));
    return static_cast<float>(v);
  });
}
#define MYOPS_TILE_DPFP16PS _tile_dpfp16ps
inline void _tile_dpbssd(int d, int a, int b) { x86::byte_product<int8_t>(d, a, b); }
inline void _tile_dpbuud(int d, int a, int b) { x86::byte_product<uint8_t>(d, a, b); }
