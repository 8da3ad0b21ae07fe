// The largest (smallest) product of each row and column, and the entry that it came from.
//
// The first of equal ones wins; a NaN wins over everything, the first of several again. Tiles of columns keep the best
// and its entry in L1 while the row's entries go by; the comparisons are left to the compiler to vectorise.
#pragma once
#include "stage.h"

namespace myops::cpu {

constexpr int kExtremumTile = 64;

// T: the type that is compared in, signed where integers are. Products of integers wrap to S before the comparison.
template <class Isa, class T, class S, class I, bool Minimum>
Status extremum_typed(const Extremum& p, const Partition& cut, const Runtime& rt) {
  const S* b = static_cast<const S*>(p.B);
  using U = std::conditional_t<std::is_floating_point_v<T>, T, uint64_t>;
  const I none = static_cast<I>(p.A.nnz);
  // Segments of a long row are taken together by the first of them, so that no slots are needed.
  return for_pieces(p.A, cut, rt, [&](const Piece& piece) {
    alignas(64) int64_t offsets[kPiece + kPrefetch];
    alignas(64) T values[kPiece];
    const auto walk = [&](int64_t begin, int64_t end, int64_t base, int64_t j, int n, T* best, I* arg) {
      for (int64_t e = begin; e < end; ++e) {
        const S* x = b + offsets[e - base] + j;
        const U v = static_cast<U>(values[e - base]);
        for (int k = 0; k < n; ++k) {
          T product = static_cast<T>(v * static_cast<U>(load_scalar<T>(x[k])));
          if constexpr (!std::is_floating_point_v<T>) product = static_cast<T>(static_cast<S>(product));
          const bool beyond = Minimum ? product < best[k] : product > best[k];
          const bool better = beyond | (arg[k] == none) | ((product != product) & (best[k] == best[k]));
          best[k] = better ? product : best[k];
          arg[k] = better ? static_cast<I>(e) : arg[k];
        }
      }
    };
    const auto write = [&](int64_t i, int64_t j, int n, const T* best, const I* arg) {
      for (int k = 0; k < n; ++k) {
        static_cast<S*>(p.D)[i * p.N + j + k] = store_scalar<S>(best[k]);
        static_cast<I*>(p.arg)[i * p.N + j + k] = arg[k];
      }
    };
    T best[kExtremumTile];
    I arg[kExtremumTile];
    const auto start = [&]() {
      for (int k = 0; k < kExtremumTile; ++k) best[k] = T(0), arg[k] = none;
    };
    if (piece.slot >= 0) {
      if (piece.begin != row_start(p.A, piece.row)) return true;
      for (int64_t j = 0; j < p.N; j += kExtremumTile) {
        const int n = static_cast<int>(min64(kExtremumTile, p.N - j));
        start();
        const Piece* const last = cut.pieces + cut.count;
        for (const Piece* part = &piece; part < last && part->slot >= 0 && part->row == piece.row; ++part) {
          if (!stage_offsets(p.A, part->begin, part->end, p.b_row, offsets)) return false;
          stage_values<T, S, 1>(p.A, p.values, nullptr, part->begin, part->end, values);
          walk(part->begin, part->end, part->begin, j, n, best, arg);
        }
        write(piece.row, j, n, best, arg);
      }
      return true;
    }
    if (!stage_offsets(p.A, piece.begin, piece.end, p.b_row, offsets)) return false;
    stage_values<T, S, 1>(p.A, p.values, nullptr, piece.begin, piece.end, values);
    for (int64_t i = piece.row; i < piece.row_end; ++i)
      for (int64_t j = 0; j < p.N; j += kExtremumTile) {
        const int n = static_cast<int>(min64(kExtremumTile, p.N - j));
        start();
        walk(row_start(p.A, i), row_start(p.A, i + 1), piece.begin, j, n, best, arg);
        write(i, j, n, best, arg);
      }
    return true;
  });
}

template <class Isa, class T, class S>
Status extremum_indexed(const Extremum& p, const Partition& cut, const Runtime& rt) {
  if (p.minimum)
    return p.A.wide ? extremum_typed<Isa, T, S, int64_t, true>(p, cut, rt)
                    : extremum_typed<Isa, T, S, int32_t, true>(p, cut, rt);
  return p.A.wide ? extremum_typed<Isa, T, S, int64_t, false>(p, cut, rt)
                  : extremum_typed<Isa, T, S, int32_t, false>(p, cut, rt);
}

template <class Isa>
Status extremum(const Extremum& p, const Partition& cut, const Runtime& rt) {
  switch (p.type) {
    case DType::f32: return extremum_indexed<Isa, float, float>(p, cut, rt);
    case DType::f64: return extremum_indexed<Isa, double, double>(p, cut, rt);
    case DType::bf16: return extremum_indexed<Isa, float, bf16>(p, cut, rt);
    case DType::f16: return extremum_indexed<Isa, float, f16>(p, cut, rt);
    case DType::i8: return extremum_indexed<Isa, int32_t, int8_t>(p, cut, rt);
    case DType::u8: return extremum_indexed<Isa, int32_t, uint8_t>(p, cut, rt);
    case DType::i16: return extremum_indexed<Isa, int32_t, int16_t>(p, cut, rt);
    case DType::i32: return extremum_indexed<Isa, int32_t, int32_t>(p, cut, rt);
    default: return extremum_indexed<Isa, int64_t, int64_t>(p, cut, rt);
  }
}

}  // namespace myops::cpu
