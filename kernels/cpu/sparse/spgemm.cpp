// Gustavson's algorithm: row i of C is the sum of the rows k of B, scaled by A[i, k], in an accumulator.
//
// The accumulator is a dense row of C with a mark for each column in use where that fits a cache, else a hash table.
// Rows are cut into shares of a few entries of A; a share computes its rows into memory of its own, and once all are
// done their sizes give every row its place in C. One pass over the flops instead of two (symbolic, numeric) at the
// price of holding C twice. Walking the marks yields the columns in order: nothing is sorted.
#include "spgemm.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "scalar.h"

namespace myops::cpu {
namespace {

// Rows of C are shared out by the room they may take, an eighth of the 128 KB from which on malloc takes new pages for
// each share, whose faults take as long as the products.
constexpr int64_t kProductsPerShare = 2048, kRowsPerShare = 4096;
constexpr int64_t kRowsToCount = 1024;
constexpr int64_t kAlone = 1 << 17;         // multiplications of a gradient that one thread does
constexpr int64_t kDenseColumns = 1 << 20;  // 4 MB of float32: L2 and L3 of one core

// Offsets into a pattern. Before anything is read through them, rows_cover is asked of crow, and columns are checked.
template <class I>
struct Rows {
  const I *crow, *col;
  int64_t rows, cols, nnz;
  explicit Rows(const Csr& m)
      : crow(static_cast<const I*>(m.crow)),
        col(static_cast<const I*>(m.col)),
        rows(m.rows),
        cols(m.cols),
        nnz(m.nnz) {}
  bool starts_fit() const { return rows_cover(crow, rows, nnz); }
  bool columns_fit(const Runtime& rt) const {
    constexpr int64_t kGrain = 1 << 16;
    Flag bad;
    take_turns(rt, (nnz + kGrain - 1) / kGrain, [&](int64_t part) {
      const int64_t begin = part * kGrain;
      if (!columns_inside(col + begin, std::min(nnz - begin, kGrain), cols)) bad.raise();
    });
    return !bad.is_raised();
  }
  Status check(const Runtime& rt) const {
    return !starts_fit() ? Status::bad_crow : !columns_fit(rt) ? Status::bad_col : Status::ok;
  }
};

// A row of a few terms, put in order by counting for each how many come before it: no branch depends on the columns,
// where an insertion sort and the walk over marks mispredict for most terms. Columns that rise are in order.
constexpr int kShortRow = 48;

template <class T>
class ShortRow {
 public:
  static constexpr int kPlaces = 64;  // a key holds the column and the place of the term
  static constexpr int64_t kColumns = int64_t{1} << 25;

  // Term: factor * values[n]. It is multiplied in finish(): gcc 12 makes vectors of a loop that multiplies complex
  // pairs here, and reads another value for the last of a multiple of four.
  void add(int64_t column, T factor, int64_t n) {
    falls_ |= column <= last_;
    last_ = column;
    key_[count_] = static_cast<int32_t>(column * kPlaces + count_);
    factor_[count_] = factor;
    value_[count_++] = n;
  }
  template <class S, class Emit>
  void finish(const S* values, const Emit& emit) {
    if (!falls_) {
      for (int i = 0; i < count_; ++i) emit(key_[i] / kPlaces, factor_[i] * load_scalar<T>(values[value_[i]]));
      return;
    }
    using Four = int32_t __attribute__((vector_size(16)));
    int32_t sorted[kShortRow];
    for (int j = 0; j < count_; j += 8) {  // what is behind the last key has a rank that nobody reads
      Four keys[2], rank[2] = {};
      std::memcpy(keys, key_ + j, sizeof(keys));
      for (int i = 0; i < count_; ++i) {
        rank[0] -= keys[0] > key_[i];
        rank[1] -= keys[1] > key_[i];
      }
      for (int i = 0; i < 8 && j + i < count_; ++i) sorted[rank[i / 4][i % 4]] = key_[j + i];
    }
    const auto term = [&](int i) {
      const int place = sorted[i] & (kPlaces - 1);
      return factor_[place] * load_scalar<T>(values[value_[place]]);
    };
    for (int i = 0; i < count_;) {
      const int32_t column = sorted[i] / kPlaces;
      T sum = term(i);
      while (++i < count_ && sorted[i] / kPlaces == column) sum += term(i);
      emit(column, sum);
    }
  }

 private:
  int32_t key_[kShortRow];
  T factor_[kShortRow];
  int64_t value_[kShortRow];
  int64_t last_ = -1;
  int count_ = 0;
  bool falls_ = false;
};

// One row of C over all columns. Columns in use are marked by a byte each, and by another for their group of 64: plain
// stores, where setting bits would make neighbours wait for each other. Where neighbours are rare, by a bit each, which
// is read sooner. All marks and sums are zero between rows.
template <class T, class I>
class DenseRow {
 public:
  explicit DenseRow(int64_t cols)
      : sums_(cols), used_((cols + 63) / 64 * 64), bits_((cols + 63) / 64), groups_((cols + 511) / 512 * 8) {}

  void start(int64_t flops) { by_bits_ = flops * kApart <= static_cast<int64_t>(sums_.size()); }
  template <class S>
  void add(T factor, const I* col, const S* values, int64_t n) {
    const auto add_each = [&](const auto& mark) {
      for (int64_t e = 0; e < n; ++e) {
        const int64_t c = col[e];
        sums_[c] += factor * load_scalar<T>(values[e]);
        mark(c);
        groups_[c >> 6] = 1;
      }
    };
    if (by_bits_)
      add_each([&](int64_t c) { bits_[c >> 6] |= uint64_t{1} << (c & 63); });
    else
      add_each([&](int64_t c) { used_[c] = 1; });
  }
  template <class Emit>
  void finish(const Emit& emit) {
    for (size_t base = 0; base < groups_.size(); base += 8) {
      uint64_t groups = mask_of_eight(&groups_[base]);
      if (groups == 0) continue;
      std::memset(&groups_[base], 0, 8);
      for (; groups != 0; groups &= groups - 1) {
        const int64_t group = static_cast<int64_t>(base + __builtin_ctzll(groups)), first = group * 64;
        uint64_t columns = 0;
        if (by_bits_) {
          std::swap(columns, bits_[group]);
        } else {
          for (int i = 0; i < 8; ++i) columns |= mask_of_eight(&used_[first + 8 * i]) << (8 * i);
          std::memset(&used_[first], 0, 64);
        }
        for (; columns != 0; columns &= columns - 1) {
          const int64_t c = first + __builtin_ctzll(columns);
          emit(c, sums_[c]);
          sums_[c] = T{};
        }
      }
    }
  }

 private:
  static constexpr int64_t kApart = 16;  // columns for each product

  static uint64_t mask_of_eight(const uint8_t* marks) {  // bit i for byte i, which is 0 or 1
    uint64_t bytes;
    std::memcpy(&bytes, marks, 8);
    return (bytes * 0x0102040810204080u) >> 56;
  }

  std::vector<T> sums_;
  std::vector<uint8_t> used_;
  std::vector<uint64_t> bits_;
  std::vector<uint8_t> groups_;
  bool by_bits_ = false;
};

template <class I>
bool columns_rise(const I* col, int64_t n) {
  bool falls = false;
  for (int64_t e = 1; e < n; ++e) falls |= col[e] <= col[e - 1];
  return !falls;
}

// Sums by their column, by open addressing. A free place has the key -1.
template <class T, class I>
class HashTable {
 public:
  // Empties it, with room for so many columns.
  void start(int64_t most) {
    int64_t size = 64;
    while (size < 2 * most) size *= 2;
    if (size > static_cast<int64_t>(keys_.size())) keys_.resize(size), sums_.resize(size);
    mask_ = size - 1;
    std::fill(keys_.begin(), keys_.begin() + size, I(-1));
  }
  // The place of a column, which gets one with a sum of zero where it has none, and whether it is new.
  std::pair<int64_t, bool> enter(I column) {
    const int64_t at = find(column);
    const bool is_new = keys_[at] != column;
    if (is_new) keys_[at] = column, sums_[at] = T{};
    return {at, is_new};
  }
  T& sum(int64_t at) { return sums_[at]; }
  T operator[](I column) const {
    const int64_t at = find(column);
    return keys_[at] == column ? sums_[at] : T{};
  }

 private:
  int64_t find(I column) const {
    int64_t at = static_cast<int64_t>((static_cast<uint64_t>(column) * 0x9e3779b97f4a7c15u) >> 32) & mask_;
    while (keys_[at] != column && keys_[at] != I(-1)) at = (at + 1) & mask_;
    return at;
  }

  int64_t mask_ = 0;
  std::vector<I> keys_;
  std::vector<T> sums_;
};

// DenseRow for matrices of very many columns.
template <class T, class I>
class HashRow {
 public:
  explicit HashRow(int64_t cols) : cols_(cols) {}

  void start(int64_t flops) {
    table_.start(std::min(flops, cols_));
    used_.clear();
  }
  template <class S>
  void add(T factor, const I* col, const S* values, int64_t n) {
    for (int64_t e = 0; e < n; ++e) {
      const auto [at, is_new] = table_.enter(col[e]);
      if (is_new) used_.emplace_back(col[e], at);
      table_.sum(at) += factor * load_scalar<T>(values[e]);
    }
  }
  template <class Emit>
  void finish(const Emit& emit) {
    std::sort(used_.begin(), used_.end());
    for (const auto& [c, at] : used_) emit(c, table_.sum(at));
  }

 private:
  int64_t cols_;
  HashTable<T, I> table_;
  std::vector<std::pair<I, int64_t>> used_;
};

template <class T, class S, class I, class Row>
Status multiply(const Spgemm& p, const SpgemmSink& sink, const Runtime& rt) {
  const Rows<I> A(p.A), B(p.B);
  const S* const a = static_cast<const S*>(p.a);
  const S* const b = static_cast<const S*>(p.b);
  struct Share {
    int64_t begin, end, room;
    std::unique_ptr<I[]> col;
    std::unique_ptr<S[]> values;
  };
  std::vector<int64_t> lengths(A.rows);  // of the rows of C; before, their multiplications
  const auto by_rows = [&](const auto& body) {
    take_turns(rt, (A.rows + kRowsToCount - 1) / kRowsToCount, [&](int64_t part) {
      for (int64_t i = part * kRowsToCount; i < std::min(A.rows, (part + 1) * kRowsToCount); ++i)
        for (int64_t e = A.crow[i]; e < A.crow[i + 1]; ++e) body(i, B.crow[A.col[e]], B.crow[A.col[e] + 1]);
    });
  };
  by_rows([&](int64_t i, int64_t begin, int64_t end) { lengths[i] += end - begin; });
  int64_t products = 0;
  for (const int64_t length : lengths) products += length;
  if (products < B.nnz) {  // the other columns of B are not read
    Flag bad;
    by_rows([&](int64_t, int64_t begin, int64_t end) {
      if (!columns_inside(B.col + begin, end - begin, B.cols)) bad.raise();
    });
    if (bad.is_raised()) return Status::bad_col;
  } else if (!B.columns_fit(rt)) {
    return Status::bad_col;
  }
  std::vector<Share> shares;
  for (int64_t i = 0; i < A.rows;) {
    Share share{i, i + 1, std::min(lengths[i], B.cols), nullptr, nullptr};
    while (++i < A.rows && share.room + lengths[i] <= kProductsPerShare && i - share.begin < kRowsPerShare) {
      share.room += std::min(lengths[i], B.cols);
      share.end = i + 1;
    }
    shares.push_back(std::move(share));
  }
  std::atomic<size_t> next{0};
  take_turns(rt, std::min<int64_t>(rt.threads, shares.size()), [&](int64_t) {
    Row row(p.B.cols);
    for (size_t at; (at = next.fetch_add(1)) < shares.size();) {
      Share& share = shares[at];
      int64_t count = 0;
      share.col.reset(new I[share.room]);
      share.values.reset(new S[share.room]);
      I* const col = share.col.get();
      S* const values = share.values.get();
      for (int64_t i = share.begin; i < share.end; ++i) {
        const int64_t before = count, flops = lengths[i];
        const auto emit = [&](int64_t c, T sum) {
          col[count] = static_cast<I>(c);
          values[count++] = store_scalar<S>(sum);
        };
        if (A.crow[i + 1] - A.crow[i] == 1) {
          const int64_t k = A.col[A.crow[i]], from = B.crow[k];
          if (columns_rise(B.col + from, flops)) {
            const T factor = load_scalar<T>(a[A.crow[i]]);
            for (int64_t n = 0; n < flops; ++n) emit(B.col[from + n], factor * load_scalar<T>(b[from + n]));
            continue;
          }
        }
        if (flops <= kShortRow && p.B.cols <= ShortRow<T>::kColumns) {
          ShortRow<T> few;
          for (int64_t e = A.crow[i]; e < A.crow[i + 1]; ++e)
            for (int64_t k = A.col[e], n = B.crow[k]; n < B.crow[k + 1]; ++n)
              few.add(B.col[n], load_scalar<T>(a[e]), n);
          few.finish(b, emit);
          lengths[i] = count - before;
          continue;
        }
        row.start(flops);
        for (int64_t e = A.crow[i]; e < A.crow[i + 1]; ++e) {
          const int64_t k = A.col[e], from = B.crow[k];
          row.add(load_scalar<T>(a[e]), B.col + from, b + from, B.crow[k + 1] - from);
        }
        row.finish(emit);
        lengths[i] = count - before;
      }
      if (share.room > 2 * count) {  // not worth keeping
        std::unique_ptr<I[]> fewer_col(new I[count]);
        std::unique_ptr<S[]> fewer_values(new S[count]);
        std::copy_n(col, count, fewer_col.get());
        std::copy_n(values, count, fewer_values.get());
        share.col = std::move(fewer_col);
        share.values = std::move(fewer_values);
      }
    }
  });
  int64_t nnz = 0;
  for (const int64_t length : lengths) nnz += length;
  if (nnz > static_cast<int64_t>(std::numeric_limits<I>::max())) return Status::too_many_entries;
  const SpgemmResult result = sink(nnz);
  I* const crow = static_cast<I*>(result.crow);
  crow[0] = 0;
  for (int64_t i = 0; i < A.rows; ++i) crow[i + 1] = static_cast<I>(crow[i] + lengths[i]);
  take_turns(rt, shares.size(), [&](int64_t at) {
    Share& share = shares[at];
    const int64_t from = crow[share.begin], count = crow[share.end] - from;
    std::copy_n(share.col.get(), count, static_cast<I*>(result.col) + from);
    std::copy_n(share.values.get(), count, static_cast<S*>(result.values) + from);
    if (I* const row = static_cast<I*>(result.row); row != nullptr)
      for (int64_t i = share.begin; i < share.end; ++i) std::fill(row + crow[i], row + crow[i + 1], static_cast<I>(i));
    share.col.reset();
    share.values.reset();
  });
  return Status::ok;
}

// A row of C by its columns, zero where it has none: spread over all columns, or hashed where they are very many.
template <class T, class I>
class DenseSpread {
 public:
  explicit DenseSpread(int64_t cols) : sums_(cols) {}

  template <class S>
  void set(const I* col, const S* values, int64_t n) {
    for (int64_t e = 0; e < n; ++e) sums_[col[e]] += load_scalar<T>(values[e]);
  }
  void clear(const I* col, int64_t n) {
    for (int64_t e = 0; e < n; ++e) sums_[col[e]] = T{};
  }
  T operator[](I column) const { return sums_[column]; }

 private:
  std::vector<T> sums_;
};

template <class T, class I>
class HashSpread {
 public:
  explicit HashSpread(int64_t) {}

  template <class S>
  void set(const I* col, const S* values, int64_t n) {
    table_.start(n);
    for (int64_t e = 0; e < n; ++e) table_.sum(table_.enter(col[e]).first) += load_scalar<T>(values[e]);
  }
  void clear(const I*, int64_t) {}
  T operator[](I column) const { return table_[column]; }

 private:
  HashTable<T, I> table_;
};

// Thread t owns the rows [from, to) of B and the entries of A that meet them, and walks all rows i of A and C for
// those: C[i, :] is spread over a row, and one sweep over B[k, :] serves
//   grad_a[i, k] = sum over j of C[i, j] * B[k, j]      and      grad_b[k, j] += A[i, k] * C[i, j].
// Every sum has one owner and goes through i in order.
template <class T, class S, class I, class Spread>
Status backward(const SpgemmBackward& p, const Runtime& rt) {
  const Rows<I> A(p.A), B(p.B), C(p.C);
  for (const Rows<I>& m : {A, B, C})
    if (const Status status = m.check(rt); status != Status::ok) return status;
  const S* const a = static_cast<const S*>(p.a);
  const S* const b = static_cast<const S*>(p.b);
  const S* const c = static_cast<const S*>(p.c);
  S* const grad_a = static_cast<S*>(p.grad_a);
  S* const grad_b = static_cast<S*>(p.grad_b);

  std::vector<int64_t> work(B.rows + 1);  // flops in the rows of B before
  for (int64_t e = 0; e < A.nnz; ++e) work[A.col[e] + 1] += 1;
  for (int64_t k = 0; k < B.rows; ++k) work[k + 1] = work[k] + (work[k + 1] + 1) * (B.crow[k + 1] - B.crow[k] + 1);
  const int64_t owners = work[B.rows] < kAlone ? 1 : rt.threads;
  const auto bound = [&](int64_t owner) {
    return std::lower_bound(work.begin(), work.end(), work[B.rows] * owner / owners) - work.begin();
  };
  take_turns(rt, owners, [&](int64_t owner) {
    const int64_t from = owner == 0 ? 0 : bound(owner), to = owner + 1 == owners ? B.rows : bound(owner + 1);
    Spread spread(B.cols);
    std::vector<T> sums(grad_b == nullptr ? 0 : B.crow[to] - B.crow[from]);
    for (int64_t i = 0; i < A.rows; ++i) {
      bool here = false;
      const int64_t first = C.crow[i], count = C.crow[i + 1] - first;
      for (int64_t e = A.crow[i]; e < A.crow[i + 1]; ++e) {
        const int64_t k = A.col[e];
        if (k < from || k >= to) continue;
        if (!here) spread.set(C.col + first, c + first, count);
        here = true;
        const int64_t begin = B.crow[k], end = B.crow[k + 1];
        if (grad_a != nullptr) {
          T sum{};
          for (int64_t n = begin; n < end; ++n) sum += spread[B.col[n]] * load_scalar<T>(b[n]);
          grad_a[e] = store_scalar<S>(sum);
        }
        if (grad_b != nullptr) {
          const T factor = load_scalar<T>(a[e]);
          T* const out = sums.data() + (begin - B.crow[from]);
          for (int64_t n = begin; n < end; ++n) out[n - begin] += factor * spread[B.col[n]];
        }
      }
      if (here) spread.clear(C.col + first, count);
    }
    for (size_t n = 0; n < sums.size(); ++n) grad_b[B.crow[from] + n] = store_scalar<S>(sums[n]);
  });
  return Status::ok;
}

}  // namespace

Status spgemm(const Spgemm& p, const SpgemmSink& sink, const Runtime& rt) {
  return with_sum_types(p.type, [&](auto types) {
    using T = typename decltype(types)::Compute;
    using S = typename decltype(types)::Stored;
    const auto run = [&](auto index) {
      using I = decltype(index);
      if (const Status status = Rows<I>(p.A).check(rt); status != Status::ok) return status;
      if (!Rows<I>(p.B).starts_fit()) return Status::bad_crow;
      return p.B.cols <= kDenseColumns ? multiply<T, S, I, DenseRow<T, I>>(p, sink, rt)
                                       : multiply<T, S, I, HashRow<T, I>>(p, sink, rt);
    };
    return p.A.wide ? run(int64_t{}) : run(int32_t{});
  });
}

Status spgemm_backward(const SpgemmBackward& p, const Runtime& rt) {
  return with_sum_types(p.type, [&](auto types) {
    using T = typename decltype(types)::Compute;
    using S = typename decltype(types)::Stored;
    const auto run = [&](auto index) {
      using I = decltype(index);
      return p.B.cols <= kDenseColumns ? backward<T, S, I, DenseSpread<T, I>>(p, rt)
                                       : backward<T, S, I, HashSpread<T, I>>(p, rt);
    };
    return p.A.wide ? run(int64_t{}) : run(int32_t{});
  });
}

}  // namespace myops::cpu
