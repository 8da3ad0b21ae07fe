// D = alpha * A @ B + beta * C for A in CSR: rows of B gathered, a row of D in registers until it is complete.
//
// Bound: the gather, N elements of B an entry, out of whichever cache B fits. Each piece walks its entries once for
// every tile of up to kTile vectors of D; offsets and values come from L1 (stage.h). One product is one vector FMA on
// what was loaded, so the loads are all there is; prefetching keeps them coming from far away. Near by, a row of a few
// entries takes as long as the mispredicted branch at its end: those are taken by length, several at once
// (row_order.h).
//
// Complex: a tile keeps two sums, real(v) * x and imag(v) * x, over (re, im) pairs, and combines them at the end.
#pragma once
#include <cstring>
#include <limits>
#include <type_traits>

#include "../gemm/driver.h"
#include "row_order.h"
#include "scalar.h"
#include "stage.h"

namespace myops::cpu {

constexpr int64_t kNear = 4096 * 1024;  // bytes of B: up to here prefetching costs more than it brings
constexpr int kTile = 8;                // vectors of D in registers: 8 of 16 (complex: 4 x 2)

// Where finished sums of a tile go: a row of D with its addend.
template <class Isa, class T, class S, bool Cx>
struct SpmmOut {
  using Vec = typename Isa::template Vec<T>;
  static constexpr int L = Isa::template lanes<T>;
  static constexpr int U = Cx ? 2 : 1;
  const Spmm& p;
  S* d;
  int64_t d_row;
  T alpha, beta;
  const S* c;  // nullptr: none
  int64_t c_row;
  bool plain;   // neither a mean nor an addend
  bool usual;   // no mean, an addend with columns of unit stride
  bool column;  // no mean, one addend for all of a row

  explicit SpmmOut(const Spmm& spmm)
      : p(spmm),
        d(static_cast<S*>(p.D)),
        d_row(p.N * U),
        alpha(scalar<T>(p.alpha)),
        beta(scalar<T>(p.beta)),
        c(static_cast<const S*>(p.C)),
        c_row(p.c_row * U),
        plain(!p.mean && c == nullptr),
        usual(!p.mean && c != nullptr && p.c_col == 1),
        column(!p.mean && c != nullptr && p.c_col == 0) {}

  // The sums of row i from real column j on, of the last vector n lanes. The usual cases have no call in their loop,
  // nor a lambda, which would take the sums out of their registers.
  template <int NV>
  [[gnu::always_inline]] void finish(int64_t i, int64_t j, const Vec (&sums)[NV], int n) const {
    S* const to = d + i * d_row + j;
    if (plain) {
#pragma GCC unroll 8
      for (int u = 0; u < NV; ++u) store_exact<Isa, T, S>(to + u * L, sums[u] * alpha, u + 1 < NV ? L : n);
      return;
    }
    if (column) {
      const S* const at = c + i * c_row;
      const Vec added = alternating<Isa, T>(load_scalar<T>(at[0]) * beta, load_scalar<T>(at[U - 1]) * beta);
#pragma GCC unroll 8
      for (int u = 0; u < NV; ++u) store_exact<Isa, T, S>(to + u * L, sums[u] * alpha + added, u + 1 < NV ? L : n);
      return;
    }
    const T count = p.mean && std::is_floating_point_v<T> ? static_cast<T>(entries(i)) : T(1);
#pragma GCC unroll 8
    for (int u = 0; u < NV; ++u) {
      const int lanes = u + 1 < NV ? L : n;
      if (usual)
        store_exact<Isa, T, S>(
            to + u * L, sums[u] * alpha + load_converted<Isa, T, S>(c + i * c_row + j + u * L, lanes) * beta, lanes);
      else if (std::is_floating_point_v<T> && c == nullptr)
        store_exact<Isa, T, S>(to + u * L, sums[u] / count * alpha, lanes);
      else
        finish_with_more(i, j + u * L, sums[u], lanes);
    }
  }

  // Writes the empty rows of a piece; false where that is left to finish(). Where rows are narrow and many are empty,
  // all rows of the piece are written as one.
  [[gnu::noinline]] bool finish_empty(const Piece& piece, const RowOrder<Isa>& order) const {
    if (order.empty_rows == 0 || !(alpha - alpha == T(0))) return false;  // times 0 it is a NaN
    S* const to = d + piece.row * d_row;
    const bool at_once = d_row * static_cast<int64_t>(sizeof(S)) <= 64 && order.empty_rows > order.rows / 4;
    if (c == nullptr) {
      if (at_once) std::memset(to, 0, order.rows * d_row * sizeof(S));
      for (int64_t i = 0; i < order.empty_rows && !at_once; ++i)
        std::memset(to + order.order[i] * d_row, 0, d_row * sizeof(S));
      return true;
    }
    if (!at_once || !usual || c_row != d_row) return false;
    const S* const from = c + piece.row * d_row;
    for (int64_t k = 0; k < order.rows * d_row; k += L) {
      const int lanes = static_cast<int>(min64(L, order.rows * d_row - k));
      store_exact<Isa, T, S>(to + k, load_converted<Isa, T, S>(from + k, lanes) * beta, lanes);
    }
    return true;
  }

  // Asks for what finish() will touch. Inlined in any case: a call of a function of prefetches has no effect for gcc
  // 12, which leaves it out.
  [[gnu::always_inline]] void prefetch(int64_t i, int64_t j, int n) const {
    for (int k = 0; k < n; k += 64 / static_cast<int>(sizeof(S))) {
      __builtin_prefetch(d + i * d_row + j + k, 1);
      if (usual) __builtin_prefetch(c + i * c_row + j + k);
    }
  }

  // The same of the rows [i, i + n) of a matrix of one column.
  [[gnu::always_inline]] void finish_rows(int64_t i, Vec sums, int n) const {
    if (plain)
      store_exact<Isa, T, S>(d + i, sums * alpha, n);
    else if (c != nullptr && c_row == 1 && !p.mean)
      store_exact<Isa, T, S>(d + i, sums * alpha + load_converted<Isa, T, S>(c + i, n) * beta, n);
    else
      finish_rows_with_more(i, sums, n);
  }

 private:
  int64_t entries(int64_t i) const { return max64(row_start(p.A, i + 1) - row_start(p.A, i), 1); }

  [[gnu::noinline]] void finish_rows_with_more(int64_t i, Vec sums, int n) const {
    for (int l = 0; l < n && p.mean; ++l) sums[l] = quotient(sums[l], entries(i + l));
    alignas(64) T added[L] = {};
    for (int l = 0; l < n && c != nullptr; ++l) added[l] = load_scalar<T>(c[(i + l) * c_row]) * beta;
    store_exact<Isa, T, S>(d + i, sums * alpha + Isa::template load<T>(added), n);
  }

  // Of integers rounded towards zero; signed but for uint8.
  static T quotient(T sum, int64_t count) {
    if constexpr (std::is_floating_point_v<T>) {
      return sum / static_cast<T>(count);
    } else {
      using Whole = std::conditional_t<std::is_same_v<S, uint8_t>, T, std::make_signed_t<T>>;
      return static_cast<T>(static_cast<Whole>(sum) / static_cast<Whole>(count));
    }
  }

  // With a mean, an addend of any strides, or both.
  [[gnu::noinline]] void finish_with_more(int64_t i, int64_t j, Vec sum, int n) const {
    T added[L] = {};
    for (int l = 0; l < n && c != nullptr; ++l)
      added[l] = load_scalar<T>(c[i * c_row + (j + l) / U * p.c_col * U + (j + l) % U]) * beta;
    for (int l = 0; l < n && p.mean; ++l) sum[l] = quotient(sum[l], entries(i));
    store_exact<Isa, T, S>(d + i * d_row + j, sum * alpha + Isa::template load<T>(added), n);
  }
};

// Where entry e finds its row of B. Far: rows are prefetched, and their offsets were computed before.
struct FarRows {
  static constexpr bool kFar = true;
  const int64_t* offsets;
  int64_t operator()(int64_t e) const { return offsets[e]; }
};
struct NearColumns {  // 32-bit columns as they are
  static constexpr bool kFar = false;
  const int32_t* col;
  int64_t stride;
  int64_t operator()(int64_t e) const { return col[e] * stride; }
};

// Rows of B whose elements are `step` apart.
struct SpreadRows {
  const int64_t* offsets;
  int64_t step, entries;
};
struct PackedRows {  // what for_tiles makes of them: the entries follow each other
  static constexpr bool kFar = false;
  int64_t width;
  int64_t operator()(int64_t e) const { return e * width; }
};

// body(row_of) with where the entries of a piece find their rows of B, given its strides; false where a column is
// outside. U: numbers of S an element (2 for complex).
template <class S, int U, class Body>
bool with_rows(const Csr& A, const Piece& piece, int64_t b_row, int64_t b_col, const Body& body) {
  const int64_t row_stride = b_row * U;
  const bool fits = A.cols <= std::numeric_limits<int32_t>::max();
  if (b_col == 1 && fits && A.cols * row_stride * static_cast<int64_t>(sizeof(S)) <= kNear) {
    const int64_t n = piece.end - piece.begin;
    if (A.wide) {
      const int64_t* const col = static_cast<const int64_t*>(A.col) + piece.begin;
      if (!columns_inside(col, n, A.cols)) return false;
      alignas(64) int32_t narrow[kPiece];
      for (int64_t e = 0; e < n; ++e) narrow[e] = static_cast<int32_t>(col[e]);
      body(NearColumns{narrow, row_stride});
    } else {
      const int32_t* const col = static_cast<const int32_t*>(A.col) + piece.begin;
      if (!columns_inside(col, n, A.cols)) return false;
      body(NearColumns{col, row_stride});
    }
    return true;
  }
  alignas(64) int64_t offsets[kPiece + kPrefetch];
  if (!stage_offsets(A, piece.begin, piece.end, row_stride, offsets)) return false;
  if (b_col == 1)
    body(FarRows{offsets});
  else
    body(SpreadRows{offsets, b_col * U, piece.end - piece.begin});
  return true;
}

template <class T, class S, class RowOf>
struct SpmmTile {
  const S* b;      // of the tile's first column
  const S* b_end;  // behind the last element of B
  RowOf row_of;
  const T* values;
  int last;  // lanes of the last vector
};

// sums += the products of entry e, and a prefetch for entry `ahead`. Off: nothing is loaded and zeros are added, the
// products of no lanes with no value.
template <class Isa, class T, class S, int NV, int Parts, class RowOf, class Vec>
inline void add_entry(const SpmmTile<T, S, RowOf>& t, int64_t e, int64_t ahead, Vec (&sums)[Parts][NV],
                      bool on = true) {
  constexpr int L = Isa::template lanes<T>;
  const S* x = t.b + t.row_of(e);
#pragma GCC unroll 8
  for (int u = 0; u < NV; ++u) {
    const Vec xv = u + 1 < NV ? load_converted<Isa, T, S>(x + u * L, L)
                              : load_ragged<Isa, T, S>(x + u * L, on ? t.last : 0, t.b_end);
    if constexpr (RowOf::kFar)
      if (u * L * sizeof(S) % 64 == 0) __builtin_prefetch(t.b + t.row_of(ahead) + u * L);
#pragma GCC unroll 2
    for (int part = 0; part < Parts; ++part) {
      const T value = t.values[Parts * e + part];
      sums[part][u] += xv * (on ? value : T(0));
    }
  }
}

// The same with the value in all lanes, of rows of one vector.
template <class Isa, class T, class S, class RowOf, class Vec>
inline void add_products(const SpmmTile<T, S, RowOf>& t, int64_t e, int64_t ahead, Vec value, Vec (&sums)[1]) {
  const S* x = t.b + t.row_of(e);
  if constexpr (RowOf::kFar) __builtin_prefetch(t.b + t.row_of(ahead));
  sums[0] += load_ragged<Isa, T, S>(x, t.last, t.b_end) * value;
}

// The sums of Rows short rows of rising length, one chain each. Prefetches for the rows behind them.
template <class Isa, class T, class S, int NV, int Parts, int Rows, class RowOf, class Vec>
inline void sum_short(const SpmmTile<T, S, RowOf>& t, const RowOrder<Isa>& order, const uint16_t* rows,
                      Vec (&sums)[Rows][Parts][NV]) {
  int64_t e[Rows], ahead[Rows];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    e[r] = order.begin[rows[r]];
    ahead[r] = RowOf::kFar ? order.begin[rows[r + Rows]] : 0;
  }
  const int64_t common = order.length(rows[0]);
  for (int64_t k = 0; k < common; ++k)
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) add_entry<Isa>(t, e[r] + k, ahead[r] + k, sums[r]);
  if (order.length(rows[Rows - 1]) == common) return;
#pragma GCC unroll 4
  for (int r = 1; r < Rows; ++r)
    for (int64_t k = common; k < order.length(rows[r]); ++k) add_entry<Isa>(t, e[r] + k, ahead[r] + k, sums[r]);
}

// The sum over entries [begin, end), in two or four chains where one or two vectors would wait for their own additions;
// entry begin + i goes to chain i % Chains. In four chains, with masked loads, the last entries are taken without a
// branch, and there have to be some.
template <class Isa, class T, class S, int NV, int Parts, class RowOf, class Vec>
inline void sum_long(const SpmmTile<T, S, RowOf>& t, int64_t begin, int64_t end, Vec (&sums)[Parts][NV]) {
  constexpr int Chains = NV == 1 ? 4 : NV == 2 ? 2 : 1;
  constexpr bool kNoBranch = Chains == 4 && (Isa::kMaskedLoads || has_masks<Isa, T, S>);
  Vec chains[Chains][Parts][NV] = {};
  int64_t e = begin;
  if constexpr (Chains == 4 && Parts == 1 && std::is_same_v<T, float> && Isa::kFours) {
    for (; e + 4 <= end; e += 4) {  // one load of four values, for which loads of each were as many as rows of B
      const Vec values = Isa::load_four(t.values + e);
      add_products<Isa>(t, e, e + kPrefetch, Isa::template one_of_four<0>(values), chains[0][0]);
      add_products<Isa>(t, e + 1, e + 1 + kPrefetch, Isa::template one_of_four<1>(values), chains[1][0]);
      add_products<Isa>(t, e + 2, e + 2 + kPrefetch, Isa::template one_of_four<2>(values), chains[2][0]);
      add_products<Isa>(t, e + 3, e + 3 + kPrefetch, Isa::template one_of_four<3>(values), chains[3][0]);
    }
  }
  for (; e + Chains <= end; e += Chains)
#pragma GCC unroll 4
    for (int chain = 0; chain < Chains; ++chain) add_entry<Isa>(t, e + chain, e + chain + kPrefetch, chains[chain]);
#pragma GCC unroll 4
  for (int chain = 0; chain < Chains - 1; ++chain) {
    const bool on = e + chain < end;
    if (kNoBranch || on) add_entry<Isa>(t, on ? e + chain : begin, begin, chains[chain], on);
  }
#pragma GCC unroll 2
  for (int part = 0; part < Parts; ++part)
#pragma GCC unroll 8
    for (int u = 0; u < NV; ++u) {
      sums[part][u] = chains[0][part][u];
#pragma GCC unroll 4
      for (int chain = 1; chain < Chains; ++chain) sums[part][u] += chains[chain][part][u];
    }
}

// What was summed for real and imaginary parts of the values, as complex numbers.
template <class Isa, class T, int NV, int Parts, class Vec>
inline void join_parts(Vec (&sums)[Parts][NV]) {
  if constexpr (Parts == 2)
#pragma GCC unroll 8
    for (int u = 0; u < NV; ++u) sums[0][u] += swap_pairs<Isa, T>(sums[1][u]) * alternating<Isa, T>(T(-1), T(1));
}

template <class Isa, class T, class S, int NV, bool Cx, class RowOf>
void spmm_tile(const SpmmOut<Isa, T, S, Cx>& to, const Piece& piece, const RowOrder<Isa>& order, bool empty_done,
               const SpmmTile<T, S, RowOf>& tile, int64_t j, T* slots) {
  constexpr int L = Isa::template lanes<T>;
  constexpr int Parts = Cx ? 2 : 1;
  constexpr int Rows = NV * Parts * kBeside <= kTile ? kBeside : NV * Parts * 2 <= kTile ? 2 : 1;
  constexpr int kRowsAhead = 2;
  using Vec = typename Isa::template Vec<T>;
  const SpmmOut<Isa, T, S, Cx> out = to;  // copies, which stores to D cannot change
  const SpmmTile<T, S, RowOf> t = tile;
  if (piece.slot >= 0) {
    Vec sums[Parts][NV];
    sum_long<Isa>(t, 0, piece.end - piece.begin, sums);
    join_parts<Isa, T>(sums);
    T* slot = slots + piece.slot * out.d_row + j;
    for (int u = 0; u < NV; ++u) store_converted<Isa, T, T>(slot + u * L, sums[0][u], u + 1 < NV ? L : t.last);
    return;
  }
  const auto finish = [&](int64_t row, Vec(&sums)[Parts][NV]) {
    join_parts<Isa, T>(sums);
    out.finish(piece.row + row, j, sums[0], t.last);
  };
  const auto one = [&](int64_t row) {
    Vec sums[Parts][NV];
    sum_long<Isa>(t, order.begin[row], order.begin[row + 1], sums);
    finish(row, sums);
  };
  // Wide rows from far away keep the order of the matrix, in which lines of A and D follow each other: they take longer
  // than a mispredicted branch.
  if constexpr (RowOf::kFar && NV >= 4) {
    for (int64_t row = 0; row < order.rows; ++row) {
      if (empty_done && order.length(row) == 0) continue;
      out.prefetch(piece.row + min64(row + kRowsAhead, order.rows - 1), j, NV * L);
      one(row);
    }
    return;
  }
  for (int64_t i = empty_done ? order.empty_rows : 0; i < order.short_rows; i += Rows) {
    const uint16_t* const rows = order.order + i;
    Vec sums[Rows][Parts][NV] = {};
#pragma GCC unroll 4
    for (int r = 0; RowOf::kFar && r < Rows; ++r) out.prefetch(piece.row + rows[r + Rows], j, NV * L);
    sum_short<Isa>(t, order, rows, sums);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) finish(rows[r], sums[r]);
  }
  for (int64_t i = 0; i < order.rows - order.short_rows; ++i) one(order.long_ones()[i]);
}

// The sum of n neighbours: vectors of partial sums, then a fixed tree.
template <class Isa, class T>
inline T sum_of(const T* p, int64_t n) {
  constexpr int L = Isa::template lanes<T>;
  if (n <= 4) {
    T sum = T(0);
    for (int64_t e = 0; e < n; ++e) sum += p[e];
    return sum;
  }
  typename Isa::template Vec<T> sum = {};
  int64_t e = 0;
  for (; e + L <= n; e += L) sum += Isa::template load<T>(p + e);
  if (e < n) sum += load_ragged<Isa, T, T>(p + e, static_cast<int>(n - e), p + e + L);
  return horizontal_sum<Isa, T>(sum);
}

// sums[l] of row l of L rows, rows[l] .. rows[l + 1] in p, of any length.
template <class Isa, class T, class I>
[[gnu::noinline]] void sums_of_any_rows(const T* p, const I* rows, T* sums) {
  constexpr int L = Isa::template lanes<T>;
  if constexpr (Isa::kLaneMasks) {
    typename Isa::template Vec<T> partial[L];
#pragma GCC unroll 16
    for (int l = 0; l < L; ++l) {
      const T* const row = p + rows[l];
      const int64_t n = rows[l + 1] - rows[l];
      partial[l] = Isa::template load_partial<T>(row, static_cast<int>(min64(n, L)));
      for (int64_t e = L; e < n; e += L)
        partial[l] += Isa::template load_partial<T>(row + e, static_cast<int>(min64(n - e, L)));
    }
    Isa::template store<T>(sums, sums_of<Isa, T>(partial));
  } else {
    for (int l = 0; l < L; ++l) sums[l] = sum_of<Isa, T>(p + rows[l], rows[l + 1] - rows[l]);
  }
}

// Which lanes of its first vector each row fills, as bits.
template <int L, class I>
static inline void first_lanes(const I* rows, int64_t n, uint16_t* lanes) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t length = static_cast<uint32_t>(rows[i + 1] - rows[i]);
    lanes[i] = static_cast<uint16_t>((1u << (length < L ? length : L)) - 1);
  }
}

// The same with masked loads, `lanes` from first_lanes: a row that does not fill a vector is one load, whatever its
// length, and the lanes are added up by squares. A loop over a short row ends in a mispredicted branch; a mask made
// beside each load, and a branch for rows that are longer, took half of this function.
template <class Isa, class T, class I>
inline void sums_of_rows(const T* p, const I* rows, const uint16_t* lanes, T* sums) {
  constexpr int L = Isa::template lanes<T>;
  if constexpr (Isa::kLaneMasks) {
    uint64_t fours[L / 4], any = 0;
    std::memcpy(fours, lanes, sizeof(fours));
    for (const uint64_t four : fours) any |= four;
    if ((any & (uint64_t(0x0001000100010001) << (L - 1))) == 0) {  // no row fills its first vector
      typename Isa::template Vec<T> partial[L];
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) partial[l] = Isa::template load_masked<T>(p + rows[l], lanes[l]);
      return Isa::template store<T>(sums, sums_of<Isa, T>(partial));
    }
  }
  sums_of_any_rows<Isa, T, I>(p, rows, sums);
}

// One column of B: all products of the piece first, in a loop without rows, then the sums of its rows.
template <class Isa, class T, class S, class I>
void spmm_column(const SpmmOut<Isa, T, S, false>& to, const Piece& piece, const T* values, const I* col, T* slots) {
  constexpr int L = Isa::template lanes<T>;
  const SpmmOut<Isa, T, S, false> out = to;  // a copy, which stores to D cannot change
  const Spmm& p = out.p;
  const int64_t n = piece.end - piece.begin;
  const S* b = static_cast<const S*>(p.B);
  alignas(64) T products[kPiece + L];
  gather_products(values, b, col, p.b_row, n, products);
  if (piece.slot >= 0) {
    slots[piece.slot] = sum_of<Isa, T>(products, n);
    return;
  }
  const I* crow = static_cast<const I*>(p.A.crow);
  const T* const by_entry = products - piece.begin;
  int64_t i = piece.row;
  alignas(64) T sums[L];
  alignas(64) uint16_t lanes[kPiece];
  if constexpr (Isa::kLaneMasks) first_lanes<L>(crow + i, piece.row_end - i, lanes);
  for (; i + L <= piece.row_end; i += L) {
    sums_of_rows<Isa, T, I>(by_entry, crow + i, lanes + (i - piece.row), sums);
    out.finish_rows(i, Isa::template load<T>(sums), L);
  }
  if (i == piece.row_end) return;
  I rows[L + 1];  // the same for those that are left, so that equal rows have equal bits; none behind them has entries
  for (int l = 0; l <= L; ++l) rows[l] = crow[min64(i + l, piece.row_end)];
  if constexpr (Isa::kLaneMasks) first_lanes<L>(rows, L, lanes);
  sums_of_rows<Isa, T, I>(by_entry, rows, lanes, sums);
  out.finish_rows(i, Isa::template load<T>(sums), static_cast<int>(piece.row_end - i));
}

// Calls body(tile, count of its vectors as a constant, first column) for the tiles that all columns of B are cut into.
template <int kWidest, class Isa, class T, class S, bool Cx, class RowOf, class Body>
void for_tiles(const SpmmOut<Isa, T, S, Cx>& out, RowOf row_of, const T* values, const Body& body) {
  constexpr int L = Isa::template lanes<T>;
  constexpr int U = Cx ? 2 : 1, kMiddle = kWidest > 4 ? 4 : kWidest, kPair = kWidest > 2 ? 2 : kWidest;
  const Spmm& p = out.p;
  const S* b = static_cast<const S*>(p.B);
  const bool rows = p.A.cols > 0;  // else B may be nullptr, to which nothing can be added
  const S* b_end = rows ? b + ((p.A.cols - 1) * p.b_row + p.N) * U : b;
  const int64_t width = p.N * U, vectors = ceil_div(width, L);
  for (int64_t v = 0; v < vectors;) {
    const auto tile = [&](auto count) {
      const int last = static_cast<int>(min64(L, width - (v + count - 1) * L));
      body(SpmmTile<T, S, RowOf>{rows ? b + v * L : b, b_end, row_of, values, last}, count, v * L);
      v += count;
    };
    const int64_t left = vectors - v;
    if (left >= kWidest)
      tile(std::integral_constant<int, kWidest>{});
    else if (left >= 4)  // then tiles are wider
      tile(std::integral_constant<int, kMiddle>{});
    else if (left >= 2)
      tile(std::integral_constant<int, kPair>{});
    else
      tile(std::integral_constant<int, 1>{});
  }
}

// The same where the elements of a row lie apart: those of the entries are brought together, a vector for each, and the
// tiles are one vector wide. As many scalar loads as products, which is less than a copy of B where it has many rows.
template <int, class Isa, class T, class S, bool Cx, class Body>
[[gnu::noinline]] void for_tiles(const SpmmOut<Isa, T, S, Cx>& out, SpreadRows rows, const T* values,
                                 const Body& body) {
  constexpr int L = Isa::template lanes<T>;
  constexpr int U = Cx ? 2 : 1;
  const int64_t width = out.p.N * U;
  alignas(64) S packed[kPiece * L];
  for (int64_t j = 0; j < width; j += L) {
    const int lanes = static_cast<int>(min64(L, width - j));
    const S* const b = static_cast<const S*>(out.p.B) + j / U * rows.step;
    const auto pack = [&](auto count) {
      for (int64_t e = 0; e < rows.entries; ++e)
        for (int l = 0; l < L; ++l)
          packed[e * L + l] = l < count ? b[rows.offsets[e] + l / U * rows.step + l % U] : S{};
    };
    if (lanes == L)
      pack(std::integral_constant<int, L>{});
    else
      pack(lanes);
    const SpmmTile<T, S, PackedRows> tile{packed, packed + rows.entries * L, PackedRows{L}, values, lanes};
    body(tile, std::integral_constant<int, 1>{}, j);
  }
}

template <class Isa, class T, class S, bool Cx, class RowOf>
void spmm_piece(const SpmmOut<Isa, T, S, Cx>& out, const Piece& piece, RowOf row_of, const T* values, T* slots) {
  RowOrder<Isa> order;
  if (piece.slot < 0) order.sort(out.p.A, piece);
  const bool empty_done = piece.slot < 0 && out.finish_empty(piece, order);
  constexpr int kWidest = Isa::kHalf ? 1 : kTile / (Cx ? 2 : 1);
  for_tiles<kWidest>(out, row_of, values, [&](const auto& tile, auto count, int64_t j) {
    spmm_tile<Isa, T, S, count.value, Cx>(out, piece, order, empty_done, tile, j, slots);
  });
}

// Memory for the sums of segments; nullptr where no row is long.
template <class T>
static inline T* make_slots(const Partition& cut, int64_t width, const Runtime& rt) {
  if (cut.slots == 0) return nullptr;
  return static_cast<T*>(rt.allocate(rt.cookie, cut.slots * width * static_cast<int64_t>(sizeof(T))));
}

// The rows of which segments are, each the sum of its slots in their order. Rows of A hold `height` rows of D.
template <class Isa, class T, class S, bool Cx>
void add_slots(const SpmmOut<Isa, T, S, Cx>& out, const Partition& cut, const T* slots, int64_t height = 1) {
  constexpr int L = Isa::template lanes<T>;
  const int64_t width = out.d_row;
  for (int64_t task = 0; task < cut.count && slots != nullptr; ++task) {
    const int64_t first = cut.pieces[task].slot, row = cut.pieces[task].row;
    if (first < 0) continue;
    int64_t count = 1;
    while (task + 1 < cut.count && cut.pieces[task + 1].slot >= 0 && cut.pieces[task + 1].row == row) ++count, ++task;
    for (int64_t h = 0; h < height; ++h)
      for (int64_t j = 0; j < width; j += L) {
        const int n = static_cast<int>(min64(L, width - j));
        typename Isa::template Vec<T> sum = {};
        for (int64_t s = first; s < first + count; ++s)
          sum += load_converted<Isa, T, T>(slots + (s * height + h) * width + j, n);
        out.finish(row * height + h, j, {sum}, n);
      }
  }
}

template <class Isa, class T, class S, bool Cx>
Status spmm_typed(const Spmm& p, const Partition& cut, const Runtime& rt) {
  constexpr int U = Cx ? 2 : 1;
  const SpmmOut<Isa, T, S, Cx> out(p);
  T* const slots = make_slots<T>(cut, p.N * U, rt);
  const Status status = for_pieces(p.A, cut, rt, [&](const Piece& piece) {
    alignas(64) T staged[kPiece * U];
    const T* v = staged;
    if (std::is_same_v<T, S> && p.perm == nullptr)
      v = static_cast<const T*>(p.values) + piece.begin * U;
    else if (!stage_values<T, S, U>(p.A, p.values, p.perm, piece.begin, piece.end, staged))
      return false;
    const auto column = [&](auto* col) {
      if (!columns_inside(col, piece.end - piece.begin, p.A.cols)) return false;
      if constexpr (!Cx && !Isa::kHalf) spmm_column<Isa, T, S>(out, piece, v, col, slots);
      return true;
    };
    if (!Cx && p.N == 1 && p.A.wide) return column(static_cast<const int64_t*>(p.A.col) + piece.begin);
    if (!Cx && p.N == 1) return column(static_cast<const int32_t*>(p.A.col) + piece.begin);
    const auto body = [&](auto row_of) { spmm_piece(out, piece, row_of, v, slots); };
    return with_rows<S, U>(p.A, piece, p.b_row, p.b_col, body);
  });
  add_slots(out, cut, slots);
  return status;
}

// With the vectors that fit: a masked load of a wide one crosses a line for most short rows, which takes twice as long.
template <class Isa>
Status spmm(const Spmm& p, const Partition& cut, const Runtime& rt) {
  return with_types(p.type, [&](auto types) {
    using Of = decltype(types);
    const auto multiply = [&](auto isa) {
      return spmm_typed<decltype(isa), typename Of::Lane, typename Of::StoredLane, Of::kComplex>(p, cut, rt);
    };
    const int64_t numbers = p.N * (Of::kComplex ? 2 : 1);
    if constexpr (!std::is_void_v<typename Isa::Half>)
      if (numbers > 1 && numbers <= Isa::Half::template lanes<typename Of::Lane>) return multiply(typename Isa::Half{});
    return multiply(Isa{});
  });
}

}  // namespace myops::cpu
