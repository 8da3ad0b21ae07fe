// value[e] = alpha * sum over n of A[i, n] * B[col[e], n] + beta * C[e]: a row of A in registers, rows of B gathered.
// And the same walk with the product D = A @ B of SpmmBackward, which gathers the same rows.
//
// Bound: as in spmm.h, the gather of B. A dot product ends in a sum over the lanes of a vector, which takes as many
// steps as a narrow row takes loads: vectors of partial sums are put aside in L1 and a square of them is added up at
// once, however short the rows are. Complex: the row of A is kept twice, as (re, -im) and (im, re) pairs, so that the
// real and the imaginary part are each one real dot product with a row of B.
#pragma once
#include <optional>

#include "spmm.h"

namespace myops::cpu {

constexpr int kAside = 64;  // entries whose partial sums are put aside: 4 KB

// Partial sums of the dot products, Parts vectors an entry, until there are enough to be added up.
template <class Isa, class T, int Parts>
struct Aside {
  using Vec = typename Isa::template Vec<T>;
  alignas(64) Vec partial[kAside * Parts];
  T* dots;        // of entry 0
  int64_t block;  // the first entry that is put aside

  Vec* of(int64_t e) { return partial + (e - block) * Parts; }
  void add_up(int64_t end) {
    constexpr int L = Isa::template lanes<T>;
    const int64_t n = (end - block) * Parts;
    for (int64_t i = n; i % L != 0; ++i) partial[i] = Vec{};
    for (int64_t i = 0; i < n; i += L) {
      T* const to = dots + block * Parts + i;
      Isa::template store<T>(to, Isa::template load<T>(to) + sums_of<Isa, T>(partial + i));
    }
    block = end;
  }
};

// The rows of A, of which a walk holds one at a time.
template <class S>
struct Held {
  const S* a;
  int64_t row;  // stride, in elements
};

// The row of every entry, as the piece counts them. Written kSpan at a time, so that short rows cost no branch. A
// template: see RowOrder.
template <class Isa>
struct EntryRows {
  static constexpr int64_t kSpan = 16;
  uint16_t row[kPiece + kSpan];

  EntryRows(const Csr& A, const Piece& piece) {
    int64_t begin = 0;
    for (int64_t i = 0; i < piece.row_end - piece.row; ++i) {
      const int64_t end = row_start(A, piece.row + i + 1) - piece.begin;
      int64_t e = begin;
      do {
        for (int64_t k = 0; k < kSpan; ++k) row[e + k] = static_cast<uint16_t>(i);
        e += kSpan;
      } while (e < end);
      begin = end;
    }
  }
};

// One tile of columns, j real ones from the first. Product: D too, as in spmm_tile. `rows`: where rows are short, a
// walk by entries, each of which loads its row of A; the loop over every short row would end in a mispredicted branch,
// 20 cycles, as in row_order.h.
template <class Isa, class T, class S, int NV, bool Cx, bool Product, class RowOf>
void dot_tile(const SpmmOut<Isa, T, S, Cx>& out, const Piece& piece, const SpmmTile<T, S, RowOf>& t,
              const Held<S>& held, const EntryRows<Isa>* rows, int64_t j, T* dots, T* slots) {
  constexpr int L = Isa::template lanes<T>;
  constexpr int Parts = Cx ? 2 : 1;
  using Vec = typename Isa::template Vec<T>;
  Aside<Isa, T, Parts> aside;
  aside.dots = dots;
  aside.block = 0;
  const auto hold = [&](int64_t i, Vec(&a)[Parts][NV]) {
#pragma GCC unroll 8
    for (int u = 0; u < NV; ++u) {
      a[0][u] = load_converted<Isa, T, S>(held.a + i * held.row + j + u * L, u + 1 < NV ? L : t.last);
      if constexpr (Cx) {
        a[1][u] = swap_pairs<Isa, T>(a[0][u]);
        a[0][u] *= alternating<Isa, T>(T(1), T(-1));
      }
    }
  };
  const auto multiply = [&](int64_t e, const Vec(&a)[Parts][NV], Vec(&sum)[Parts][NV]) {
    const S* x = t.b + t.row_of(e);
    Vec dot[Parts];
#pragma GCC unroll 8
    for (int u = 0; u < NV; ++u) {
      const Vec xv =
          u + 1 < NV ? load_converted<Isa, T, S>(x + u * L, L) : load_ragged<Isa, T, S>(x + u * L, t.last, t.b_end);
      if constexpr (RowOf::kFar)
        if (u * L * sizeof(S) % 64 == 0) __builtin_prefetch(t.b + t.row_of(e + kPrefetch) + u * L);
#pragma GCC unroll 2
      for (int part = 0; part < Parts; ++part) {
        dot[part] = u == 0 ? a[part][u] * xv : dot[part] + a[part][u] * xv;
        if constexpr (Product) sum[part][u] += xv * t.values[Parts * e + part];
      }
    }
    Vec* const to = aside.of(e);
#pragma GCC unroll 2
    for (int part = 0; part < Parts; ++part) to[part] = dot[part];
  };
  int64_t e = 0;
  if (!Product && rows != nullptr) {
    const int64_t end = piece.end - piece.begin;
    while (e < end) {
      const int64_t stop = min64(end, e + kAside);
      for (; e < stop; ++e) {
        Vec a[Parts][NV], none[Parts][NV];
        hold(piece.row + rows->row[e], a);
        multiply(e, a, none);
      }
      aside.add_up(e);
    }
    return;
  }
  for (int64_t i = piece.row; i < piece.row_end; ++i) {
    const int64_t end = (piece.slot >= 0 ? piece.end : row_start(out.p.A, i + 1)) - piece.begin;
    if (!Product && e == end) continue;
    Vec a[Parts][NV], sum[Parts][NV] = {};
    hold(i, a);
    while (e < end) {
      const int64_t stop = min64(end, aside.block + kAside);
      for (; e < stop; ++e) multiply(e, a, sum);
      if (e == aside.block + kAside) aside.add_up(e);
    }
    if constexpr (Product) {
      T* const slot = piece.slot >= 0 ? slots + piece.slot * out.p.N * Parts + j : nullptr;
      join_parts<Isa, T>(sum);
#pragma GCC unroll 8
      for (int u = 0; u < NV; ++u) {  // by numbers that are known, so that the sums stay in registers
        const int n = u + 1 < NV ? L : t.last;
        if (slot != nullptr)
          store_converted<Isa, T, T>(slot + u * L, sum[0][u], n);
        else
          store_exact<Isa, T, S>(out.d + i * out.d_row + j + u * L, sum[0][u], n);
      }
    }
  }
  aside.add_up(e);
}

constexpr int64_t kShortRows = 4;  // entries a row, up to which a piece is walked by entries

// All columns of a piece, tile by tile: at most half of the registers hold the row of A, a quarter where there are 16
// and sums of a product too.
template <class Isa, class T, class S, bool Cx, bool Product, class RowOf>
void dot_piece(const SpmmOut<Isa, T, S, Cx>& out, const Piece& piece, RowOf row_of, const T* values,
               const Held<S>& held, T* dots, T* slots) {
  constexpr int U = Cx ? 2 : 1;
  constexpr int64_t L = Isa::template lanes<T>;
  const int64_t entries = piece.end - piece.begin;
  std::memset(dots, 0, (entries * U + L) * sizeof(T));
  std::optional<EntryRows<Isa>> rows;
  if (!Product && piece.slot < 0 && entries < kShortRows * (piece.row_end - piece.row)) rows.emplace(out.p.A, piece);
  const EntryRows<Isa>* const by_entry = rows ? &*rows : nullptr;
  for_tiles<(Isa::kBytes == 64 || !Product ? 8 : 4) / U>(
      out, row_of, values, [&](const auto& tile, auto count, int64_t j) {
        dot_tile<Isa, T, S, count.value, Cx, Product>(out, piece, tile, held, by_entry, j, dots, slots);
      });
}

// The values of n real entries from `begin` on.
template <class S, class T>
static inline void store_dots(const Sddmm& p, int64_t begin, int64_t n, const T* dots) {
  S* const to = static_cast<S*>(p.values) + begin;
  const T alpha = scalar<T>(p.alpha), beta = scalar<T>(p.beta);
  if (p.C == nullptr) {
    for (int64_t e = 0; e < n; ++e) to[e] = store_scalar<S>(dots[e] * alpha);
    return;
  }
  const S* const c = static_cast<const S*>(p.C) + begin;
  for (int64_t e = 0; e < n; ++e) to[e] = store_scalar<S>(dots[e] * alpha + load_scalar<T>(c[e]) * beta);
}

// One column: the elements of A are spread over the entries of their rows, then all products are one loop.
template <class Isa, class T, class S, class I>
bool sddmm_column(const Sddmm& p, const Piece& piece) {
  constexpr int L = Isa::template lanes<T>;
  const I* col = static_cast<const I*>(p.A.col) + piece.begin;
  const int64_t n = piece.end - piece.begin;
  if (!columns_inside(col, n, p.A.cols)) return false;
  alignas(64) T left[kPiece + L];
  int64_t begin = 0;
  for (int64_t i = piece.row; i < piece.row_end; ++i) {
    const int64_t end = (piece.slot >= 0 ? piece.end : row_start(p.A, i + 1)) - piece.begin;
    const typename Isa::template Vec<T> v =
        typename Isa::template Vec<T>{} + load_scalar<T>(static_cast<const S*>(p.a)[i * p.a_row]);
    for (int64_t e = begin; e < end; e += L) Isa::template store<T>(left + e, v);
    begin = end;
  }
  const S* b = static_cast<const S*>(p.b);
  gather_products(left, b, col, p.b_row, n, left);
  store_dots<S>(p, piece.begin, n, left);
  return true;
}

template <class Isa, class T, class S, bool Cx>
Status sddmm_typed(const Sddmm& p, const Partition& cut, const Runtime& rt) {
  constexpr int U = Cx ? 2 : 1;
  Spmm gather;  // which rows are gathered from where
  gather.A = p.A;
  gather.N = p.N;
  gather.B = p.b;
  gather.b_row = p.b_row;
  gather.b_col = p.b_col;
  const SpmmOut<Isa, T, S, Cx> out(gather);
  const Held<S> held{static_cast<const S*>(p.a), p.a_row * U};
  return for_pieces(p.A, cut, rt, [&](const Piece& piece) {
    if constexpr (!Cx)
      if (p.N == 1)
        return p.A.wide ? sddmm_column<Isa, T, S, int64_t>(p, piece) : sddmm_column<Isa, T, S, int32_t>(p, piece);
    alignas(64) T dots[kPiece * U + Isa::template lanes<T>];
    const bool ok = with_rows<S, U>(p.A, piece, p.b_row, p.b_col, [&](auto row_of) {
      dot_piece<Isa, T, S, Cx, false>(out, piece, row_of, nullptr, held, dots, nullptr);
    });
    if (!ok) return false;
    store_dots<S>(p, piece.begin * U, (piece.end - piece.begin) * U, dots);
    return true;
  });
}

template <class S, int U, class I, class T>
static inline void store_permuted(const void* perm, int64_t begin, int64_t n, const T* dots, S* values) {
  const I* to = static_cast<const I*>(perm) + begin;
  for (int64_t e = 0; e < n; ++e)
    for (int u = 0; u < U; ++u) values[to[e] * U + u] = store_scalar<S>(dots[e * U + u]);
}

template <class Isa, class T, class S, bool Cx>
Status spmm_backward_typed(const SpmmBackward& both, const Partition& cut, const Runtime& rt) {
  constexpr int U = Cx ? 2 : 1;
  const Spmm& p = both.spmm;
  const SpmmOut<Isa, T, S, Cx> out(p);
  const Held<S> held{static_cast<const S*>(both.a), both.a_row * U};
  T* const slots = make_slots<T>(cut, p.N * U, rt);
  const Status status = for_pieces(p.A, cut, rt, [&](const Piece& piece) {
    const int64_t n = piece.end - piece.begin;
    alignas(64) T values[kPiece * U], dots[kPiece * U + Isa::template lanes<T>];
    if (!stage_values<T, S, U>(p.A, p.values, p.perm, piece.begin, piece.end, values)) return false;
    const bool ok = with_rows<S, U>(p.A, piece, p.b_row, p.b_col, [&](auto row_of) {
      dot_piece<Isa, T, S, Cx, true>(out, piece, row_of, values, held, dots, slots);
    });
    if (!ok) return false;
    S* const to = static_cast<S*>(both.dots);
    if (p.perm == nullptr)
      for (int64_t e = 0; e < n * U; ++e) to[piece.begin * U + e] = store_scalar<S>(dots[e]);
    else if (p.A.wide)
      store_permuted<S, U, int64_t>(p.perm, piece.begin, n, dots, to);
    else
      store_permuted<S, U, int32_t>(p.perm, piece.begin, n, dots, to);
    return true;
  });
  add_slots(out, cut, slots);
  return status;
}

template <class Isa>
Status sddmm(const Sddmm& p, const Partition& cut, const Runtime& rt) {
  return with_sum_types(p.type, [&](auto types) {
    using Of = decltype(types);
    return sddmm_typed<Isa, typename Of::Lane, typename Of::StoredLane, Of::kComplex>(p, cut, rt);
  });
}

// Gradients: floating types alone.
template <class Isa>
Status spmm_backward(const SpmmBackward& p, const Partition& cut, const Runtime& rt) {
  return with_floating_types(p.spmm.type, [&](auto types) {
    using Of = decltype(types);
    return spmm_backward_typed<Isa, typename Of::Lane, typename Of::StoredLane, Of::kComplex>(p, cut, rt);
  });
}

}  // namespace myops::cpu
