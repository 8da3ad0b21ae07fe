// What the gathering kernels share: the indices and values of a piece brought to L1 in the form that the inner loop
// wants, and vectors that end inside a row. Everything is static or a template over Isa: see ../gemm/isa/engine.h.
#pragma once
#include <cstring>

#include "../gemm/microkernel.h"
#include "partition.h"

namespace myops::cpu {

constexpr int kPrefetch = 8;  // entries ahead

// The offset of every gathered row; false where a column is outside the matrix. Behind the end, the last one repeated:
// prefetches run ahead.
template <class I>
static inline bool stage_offsets(const void* col, int64_t begin, int64_t end, int64_t cols, int64_t row_stride,
                                 int64_t* offsets) {
  const I* c = static_cast<const I*>(col) + begin;
  const int64_t n = end - begin;
  if (!columns_inside(c, n, cols)) return false;
  if (((row_stride | cols) >> 31) == 0)  // a 32-bit multiplication is one instruction, a 64-bit one is three
    for (int64_t e = 0; e < n; ++e)
      offsets[e] = static_cast<int64_t>(static_cast<int32_t>(c[e])) * static_cast<int32_t>(row_stride);
  else
    for (int64_t e = 0; e < n; ++e) offsets[e] = static_cast<int64_t>(c[e]) * row_stride;
  for (int i = 0; i < kPrefetch; ++i) offsets[n + i] = n > 0 ? offsets[n - 1] : 0;
  return true;
}

static inline bool stage_offsets(const Csr& A, int64_t begin, int64_t end, int64_t row_stride, int64_t* offsets) {
  return A.wide ? stage_offsets<int64_t>(A.col, begin, end, A.cols, row_stride, offsets)
                : stage_offsets<int32_t>(A.col, begin, end, A.cols, row_stride, offsets);
}

// Unit: numbers of S an entry (2 for complex). perm is checked as the columns are.
template <class T, class S, int Unit, class I>
static inline bool stage_permuted(const S* values, const void* perm, int64_t begin, int64_t n, int64_t nnz, T* out) {
  const I* p = static_cast<const I*>(perm) + begin;
  for (int64_t e = 0; e < n; ++e) {
    if (static_cast<uint64_t>(p[e]) >= static_cast<uint64_t>(nnz)) return false;
    for (int u = 0; u < Unit; ++u) out[Unit * e + u] = load_scalar<T>(values[Unit * p[e] + u]);
  }
  return true;
}
template <class T, class S, int Unit>
static inline bool stage_values(const Csr& A, const void* values, const void* perm, int64_t begin, int64_t end,
                                T* out) {
  const S* v = static_cast<const S*>(values);
  const int64_t n = end - begin;
  if (perm != nullptr)
    return A.wide ? stage_permuted<T, S, Unit, int64_t>(v, perm, begin, n, A.nnz, out)
                  : stage_permuted<T, S, Unit, int32_t>(v, perm, begin, n, A.nnz, out);
  for (int64_t e = 0; e < Unit * n; ++e) out[e] = load_scalar<T>(v[Unit * begin + e]);
  return true;
}

static inline int64_t index_at(const void* indices, bool wide, int64_t i) {
  return wide ? static_cast<const int64_t*>(indices)[i] : static_cast<const int32_t*>(indices)[i];
}
static inline int64_t row_start(const Csr& A, int64_t i) { return index_at(A.crow, A.wide, i); }

// Whether load_ragged is a load by a mask.
template <class Isa, class T, class S>
constexpr bool has_masks = std::is_same_v<S, T> ? Isa::kLaneMasks : Isa::kMaskedLoads && std::is_same_v<T, float>;

// The first n lanes at p, the rest 0. Without masks a whole vector is read and cut off, unless it would pass `end`.
template <class Isa, class T, class S>
inline typename Isa::template Vec<T> load_ragged(const S* p, int n, const S* end) {
  constexpr int L = Isa::template lanes<T>;
  if constexpr (has_masks<Isa, T, S> && std::is_same_v<S, T>) {
    return Isa::template load_partial<T>(p, n);  // a full vector too: no branch in the loop
  } else if constexpr (has_masks<Isa, T, S>) {
    return Isa::widen_partial(p, n);
  } else {
    if (n == L || end - p < L) return load_converted<Isa, T, S>(p, n);
    using Bits = LaneIndex<Isa, T>;
    using Vec = typename Isa::template Vec<T>;
    Bits lane;
    for (int i = 0; i < L; ++i) lane[i] = i;
    const Bits keep = lane < n;
    return reinterpret_cast<Vec>(reinterpret_cast<Bits>(load_converted<Isa, T, S>(p, L)) & keep);
  }
}

// Lane i: the sum of the lanes of v[i], for as many vectors as there are lanes.
template <class Isa, class T, class Vec = typename Isa::template Vec<T>>
[[gnu::always_inline]] inline Vec sums_of(const Vec* v) {
  constexpr int L = Isa::template lanes<T>;
  Vec sums[L];
#pragma GCC unroll 16
  for (int l = 0; l < L; ++l) sums[l] = v[l];
  add_stages<Isa, T, L, L / 2>(sums);
  return sums[0];
}

// products[e] = factors[e] * b[col[e] * stride], e < n; products may be the factors. Scalar loads, put together by 16
// bytes: on Zen 5 a gather of 16 lanes takes 18 to 25 cycles, and single products with their stores 0.31 ns each, these
// 0.20 (B in L1) to 0.34 (B of 250 KB). bfloat16 is loaded into the upper halves.
template <class T, class S, class I>
static inline void gather_products(const T* factors, const S* b, const I* col, int64_t stride, int64_t n, T* products) {
  constexpr int W = 16 / sizeof(T);
  typedef T Vec __attribute__((vector_size(16)));
  typedef uint16_t Halves __attribute__((vector_size(16)));
  const auto walk = [&](auto offset) {
    int64_t e = 0;
    for (; e + W <= n; e += W) {
      Vec x, f;
      if constexpr (std::is_same_v<S, bf16>) {
        Halves upper = {};
        for (int k = 0; k < W; ++k) upper[2 * k + 1] = b[offset(col[e + k])].bits;
        x = reinterpret_cast<Vec>(upper);
      } else {
        for (int k = 0; k < W; ++k) x[k] = load_scalar<T>(b[offset(col[e + k])]);
      }
      std::memcpy(&f, factors + e, 16);
      x *= f;
      std::memcpy(products + e, &x, 16);
    }
    for (; e < n; ++e) products[e] = factors[e] * load_scalar<T>(b[offset(col[e])]);
  };
  if (stride == 1)
    walk([](I c) { return static_cast<int64_t>(c); });
  else
    walk([stride](I c) { return c * stride; });
}

}  // namespace myops::cpu
