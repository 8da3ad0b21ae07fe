// The largest (smallest) product of each row and column, and the entry that it came from.
//
// The first of equal ones wins; a NaN wins over everything, the first of several again. Tiles of columns keep the best
// and its entry in L1 while the row's entries go by; the comparisons are left to the compiler to vectorise. Where
// nobody asks for the entry, and of floats, the best are in registers, as the sums of spmm.h are.
//
// The smallest is the largest of what is turned around: floats with the opposite sign, integers with opposite bits.
#pragma once
#include "spmm.h"

namespace myops::cpu {

constexpr int kExtremumTile = 64;

// All columns of a piece of whole rows, without their entries.
template <class Isa, class T, class S, class RowOf>
void best_of_piece(const SpmmOut<Isa, T, S, false>& to, const Piece& piece, RowOf row_of, const T* values) {
  constexpr int L = Isa::template lanes<T>;
  using Vec = typename Isa::template Vec<T>;
  RowOrder<Isa> order;
  order.sort(to.p.A, piece);
  to.finish_empty(piece, order);
  for_tiles<kTile / 2>(to, row_of, values, [&](const auto& tile, auto count, int64_t j) {
    constexpr int NV = count.value;
    const SpmmOut<Isa, T, S, false> out = to;  // copies, which stores to D cannot change
    const auto t = tile;
    const auto products = [&](int64_t e, Vec(&x)[NV]) {
      const S* const row = t.b + t.row_of(e);
#pragma GCC unroll 8
      for (int u = 0; u < NV; ++u)
        x[u] = (u + 1 < NV ? load_converted<Isa, T, S>(row + u * L, L)
                           : load_ragged<Isa, T, S>(row + u * L, t.last, t.b_end)) *
               t.values[e];
    };
    const auto one = [&](int64_t row) {
      Vec best[NV], x[NV];
      products(order.begin[row], best);
      for (int64_t e = order.begin[row] + 1; e < order.begin[row + 1]; ++e) {
        products(e, x);
#pragma GCC unroll 8
        for (int u = 0; u < NV; ++u) {
          const auto beyond = ~(x[u] <= best[u]);  // or a NaN
          best[u] = (beyond & (best[u] == best[u])) ? x[u] : best[u];
        }
      }
      out.finish(piece.row + row, j, best, t.last);
    };
    for (int64_t i = order.empty_rows; i < order.short_rows; ++i) one(order.order[i]);
    for (int64_t i = 0; i < order.rows - order.short_rows; ++i) one(order.long_ones()[i]);
  });
}

// T: the type that is compared in, signed where integers are. Products of integers wrap to S before the comparison.
template <class Isa, class T, class S, class I>
Status extremum_typed(const Extremum& p, const Partition& cut, const Runtime& rt) {
  const S* b = static_cast<const S*>(p.B);
  constexpr bool kFloats = std::is_floating_point_v<T>;
  using U = std::conditional_t<kFloats, T, uint64_t>;
  const I none = static_cast<I>(p.A.nnz);
  Spmm gather;  // which rows are gathered from where, and where results go
  gather.A = p.A;
  gather.N = p.N;
  gather.B = p.B;
  gather.b_row = p.b_row;
  gather.D = p.D;
  gather.alpha = p.minimum ? -1 : 1;
  const T turned = p.minimum ? T(-1) : T(0);         // the bits that turn an integer around
  const T empty = kFloats ? turned * T(0) : turned;  // of the smallest float -0, which is turned as well
  // Segments of a long row are taken together by the first of them, so that no slots are needed.
  return for_pieces(p.A, cut, rt, [&](const Piece& piece) {
    alignas(64) int64_t offsets[kPiece + kPrefetch];
    alignas(64) T values[kPiece];
    const auto stage = [&](const Piece& part) {
      stage_values<T, S, 1>(p.A, p.values, nullptr, part.begin, part.end, values);
      if (kFloats && p.minimum)
        for (int64_t e = 0; e < part.end - part.begin; ++e) values[e] = -values[e];
    };
    // Entries [begin, end) of a row; `found`: whether there were others before them.
    const auto walk = [&](int64_t begin, int64_t end, int64_t base, int64_t j, int n, bool found, T* best, I* arg) {
      for (int64_t e = begin; e < end; ++e, found = true) {
        const S* x = b + offsets[e - base] + j;
        const U v = static_cast<U>(values[e - base]);
        const auto product_of = [&](int k) {
          const T product = static_cast<T>(v * static_cast<U>(load_scalar<T>(x[k])));
          if constexpr (kFloats)
            return product;
          else
            return static_cast<T>(static_cast<S>(product)) ^ turned;
        };
        const auto better = [&](int k, T product) {
          return (product > best[k]) | ((product != product) & (best[k] == best[k]));
        };
        if (!found) {
          for (int k = 0; k < n; ++k) best[k] = product_of(k), arg[k] = static_cast<I>(e);
        } else if (p.arg == nullptr) {
          for (int k = 0; k < n; ++k) {
            const T product = product_of(k);
            best[k] = better(k, product) ? product : best[k];
          }
        } else {
          for (int k = 0; k < n; ++k) {
            const T product = product_of(k);
            const bool wins = better(k, product);
            best[k] = wins ? product : best[k];
            arg[k] = wins ? static_cast<I>(e) : arg[k];
          }
        }
      }
    };
    const auto write = [&](int64_t i, int64_t j, int n, const T* best, const I* arg) {
      S* const to = static_cast<S*>(p.D) + i * p.N + j;
      for (int k = 0; k < n; ++k)
        if constexpr (kFloats)
          to[k] = store_scalar<S>(best[k] * static_cast<T>(gather.alpha));
        else
          to[k] = store_scalar<S>(best[k] ^ turned);
      for (int k = 0; k < n && p.arg != nullptr; ++k) static_cast<I*>(p.arg)[i * p.N + j + k] = arg[k];
    };
    T best[kExtremumTile];
    I arg[kExtremumTile];
    if (piece.slot >= 0) {
      if (piece.begin != row_start(p.A, piece.row)) return true;
      for (int64_t j = 0; j < p.N; j += kExtremumTile) {
        const int n = static_cast<int>(min64(kExtremumTile, p.N - j));
        const Piece* const last = cut.pieces + cut.count;
        for (const Piece* part = &piece; part < last && part->slot >= 0 && part->row == piece.row; ++part) {
          if (!stage_offsets(p.A, part->begin, part->end, p.b_row, offsets)) return false;
          stage(*part);
          walk(part->begin, part->end, part->begin, j, n, part != &piece, best, arg);
        }
        write(piece.row, j, n, best, arg);
      }
      return true;
    }
    stage(piece);
    if constexpr (kFloats)
      if (p.arg == nullptr) {
        const SpmmOut<Isa, T, S, false> out(gather);
        return with_rows<S, 1>(p.A, piece, p.b_row, 1, [&](auto row_of) { best_of_piece(out, piece, row_of, values); });
      }
    if (!stage_offsets(p.A, piece.begin, piece.end, p.b_row, offsets)) return false;
    for (int64_t i = piece.row; i < piece.row_end; ++i)
      for (int64_t j = 0; j < p.N; j += kExtremumTile) {
        const int n = static_cast<int>(min64(kExtremumTile, p.N - j));
        const int64_t begin = row_start(p.A, i), end = row_start(p.A, i + 1);
        if (begin == end)
          for (int k = 0; k < n; ++k) best[k] = empty, arg[k] = none;
        walk(begin, end, piece.begin, j, n, false, best, arg);
        write(i, j, n, best, arg);
      }
    return true;
  });
}

template <class Isa, class T, class S>
Status extremum_indexed(const Extremum& p, const Partition& cut, const Runtime& rt) {
  return p.A.wide ? extremum_typed<Isa, T, S, int64_t>(p, cut, rt) : extremum_typed<Isa, T, S, int32_t>(p, cut, rt);
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
