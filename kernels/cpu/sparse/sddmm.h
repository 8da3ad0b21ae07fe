// value[e] = sum over n of A[i, n] * B[col[e], n]: the row of A in L1, rows of B gathered, four entries side by side.
//
// Bound: as in spmm.h, the gather of B. Complex: the row of A is kept twice, as (re, -im) and (im, re) pairs, so that
// the real and the imaginary part are each one real dot product with a row of B.
#pragma once
#include "stage.h"

namespace myops::cpu {

constexpr int64_t kDepth = 2048;  // numbers of A's row in L1 at a time

// a holds sums of G lanes each, b as many: their halves added, those of a in the lower half of the result.
template <class Isa, class T, int G, class Vec = typename Isa::template Vec<T>>
inline Vec fold(Vec a, Vec b) {
  using Index = typename Isa::template Vec<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>;
  constexpr int L = Isa::template lanes<T>;
  Index low, high;
  for (int i = 0; i < L; ++i) {
    const int lane = i % (L / 2);
    low[i] = (i < L / 2 ? 0 : L) + lane / (G / 2) * G + lane % (G / 2);
    high[i] = low[i] + G / 2;
  }
  return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}

// The sums of four vectors, with half the shuffles of four horizontal sums.
template <class Isa, class T, class Vec = typename Isa::template Vec<T>>
inline void four_sums(Vec a, Vec b, Vec c, Vec d, T (&sums)[4]) {
  constexpr int L = Isa::template lanes<T>;
  if constexpr (L < 4) {
    const Vec all[4] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) sums[i] = horizontal_sum<Isa, T>(all[i]);
  } else {
    Vec all = fold<Isa, T, L / 2>(fold<Isa, T, L>(a, b), fold<Isa, T, L>(c, d));
    if constexpr (L >= 16) add_halves<Isa, T, 2>(all);
    if constexpr (L >= 8) add_halves<Isa, T, 1>(all);
    for (int i = 0; i < 4; ++i) sums[i] = all[i * (L / 4)];
  }
}

// dots[c] += the dot products of n numbers at a with entries e .. e + 3, two versions of a for complex.
template <class Isa, class T, class S, int Parts, int Entries, class Vec = typename Isa::template Vec<T>>
inline void dot_entries(const T* a, int64_t n, const S* b, const int64_t* offsets, const S* b_end, T* dots) {
  constexpr int L = Isa::template lanes<T>;
  Vec acc[Entries][Parts] = {};
  int64_t j = 0;
  const auto step = [&](auto load) {
#pragma GCC unroll 4
    for (int e = 0; e < Entries; ++e) {
      const Vec x = load(b + offsets[e] + j);
      __builtin_prefetch(b + offsets[e + Entries] + j);
#pragma GCC unroll 2
      for (int part = 0; part < Parts; ++part) acc[e][part] += Isa::template load<T>(a + part * kDepth + j) * x;
    }
  };
  for (; j + L <= n; j += L) step([](const S* p) { return load_converted<Isa, T, S>(p, L); });
  if (j < n) step([&](const S* p) { return load_ragged<Isa, T, S>(p, static_cast<int>(n - j), b_end); });
  if constexpr (Entries == 4) {
#pragma GCC unroll 2
    for (int part = 0; part < Parts; ++part) {
      T sums[4];
      four_sums<Isa, T>(acc[0][part], acc[1][part], acc[2][part], acc[3][part], sums);
      for (int e = 0; e < 4; ++e) dots[Parts * e + part] += sums[e];
    }
  } else {
    for (int part = 0; part < Parts; ++part) dots[part] += horizontal_sum<Isa, T>(acc[0][part]);
  }
}

template <class Isa, class T, class S, bool Cx>
Status sddmm_typed(const Sddmm& p, const Partition& cut, const Runtime& rt) {
  constexpr int L = Isa::template lanes<T>;
  constexpr int U = Cx ? 2 : 1;
  const int64_t width = p.N * U;
  const S* b = static_cast<const S*>(p.b);
  const S* b_end = b + ((p.A.cols - 1) * p.b_row + p.N) * U;
  Flag bad;
  take_turns(rt, cut.count, [&](int64_t task) {
    const Piece& piece = cut.pieces[task];
    alignas(64) int64_t offsets[kPiece + kPrefetch];
    alignas(64) T dots[kPiece * U] = {};
    alignas(64) T row[U * kDepth];
    if (!stage_offsets(p.A, piece.begin, piece.end, p.b_row * U, offsets)) return bad.raise();
    for (int64_t j = 0; j < width; j += kDepth) {
      const int64_t n = min64(kDepth, width - j);
      int64_t begin = piece.begin;
      for (int64_t i = piece.row; i < piece.row_end; ++i) {
        const int64_t end = piece.slot >= 0 ? piece.end : row_start(p.A, i + 1);
        if (end == begin) continue;
        const S* a = static_cast<const S*>(p.a) + i * p.a_row * U + j;
        for (int64_t k = 0; k < n; ++k) {
          const T value = load_scalar<T>(a[k]);
          if constexpr (Cx) {
            row[k] = k % 2 ? T(0) - value : value;
            row[kDepth + (k ^ 1)] = value;
          } else {
            row[k] = value;
          }
        }
        for (int64_t k = n; k % L != 0; ++k)
          for (int u = 0; u < U; ++u) row[u * kDepth + k] = T(0);
        int64_t e = begin - piece.begin;
        for (; e + 4 <= end - piece.begin; e += 4)
          dot_entries<Isa, T, S, U, 4>(row, n, b + j, offsets + e, b_end, dots + U * e);
        for (; e < end - piece.begin; ++e)
          dot_entries<Isa, T, S, U, 1>(row, n, b + j, offsets + e, b_end, dots + U * e);
        begin = end;
      }
    }
    S* values = static_cast<S*>(p.values) + piece.begin * U;
    for (int64_t e = 0; e < (piece.end - piece.begin) * U; ++e) values[e] = store_scalar<S>(dots[e]);
  });
  return bad.status();
}

template <class Isa>
Status sddmm(const Sddmm& p, const Partition& cut, const Runtime& rt) {
  switch (p.type) {
    case DType::f32: return sddmm_typed<Isa, float, float, false>(p, cut, rt);
    case DType::f64: return sddmm_typed<Isa, double, double, false>(p, cut, rt);
    case DType::bf16: return sddmm_typed<Isa, float, bf16, false>(p, cut, rt);
    case DType::f16: return sddmm_typed<Isa, float, f16, false>(p, cut, rt);
    case DType::c64: return sddmm_typed<Isa, float, float, true>(p, cut, rt);
    case DType::c128: return sddmm_typed<Isa, double, double, true>(p, cut, rt);
    case DType::i8: return sddmm_typed<Isa, uint32_t, int8_t, false>(p, cut, rt);
    case DType::u8: return sddmm_typed<Isa, uint32_t, uint8_t, false>(p, cut, rt);
    case DType::i16: return sddmm_typed<Isa, uint32_t, int16_t, false>(p, cut, rt);
    case DType::i32: return sddmm_typed<Isa, uint32_t, uint32_t, false>(p, cut, rt);
    default: return sddmm_typed<Isa, uint64_t, uint64_t, false>(p, cut, rt);
  }
}

}  // namespace myops::cpu
