// Count the columns, turn the counts into starting places, move the entries: a stable counting sort.
//
// Bound: two stores to distant lines for every entry. Where threads moved the entries of a part of the rows each, they
// took those lines from one another: 5.7 ns an entry on two threads, where one thread took 4.2 (20,000 rows of 5). So
// each thread moves what lies in columns of its own, and reads past everything else. Bucketing entries by their upper
// column bits first was slower than either: neighbours wait for each other's store to the head of their bucket.
#include "transpose.h"

#include <algorithm>
#include <vector>

namespace myops::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // entries that are worth a thread
constexpr int64_t kMostOwners = 8;
constexpr int64_t kBlock = 1024, kSpan = 16;

// row_of[e - begin] for the entries [begin, end): kSpan elements at a time, so that short rows cost no branch. `row` is
// the first row that ends behind `begin`; that of `end` afterwards. row_of has room for kSpan more.
template <class I>
void expand_rows(const I* crow, int64_t rows, int64_t begin, int64_t end, int64_t& row, I* row_of) {
  for (; row < rows && crow[row] < end; ++row) {
    const int64_t stop = std::min<int64_t>(crow[row + 1], end) - begin;
    for (int64_t e = std::max<int64_t>(crow[row], begin) - begin; e < stop; e += kSpan)
      for (int64_t i = 0; i < kSpan; ++i) row_of[e + i] = static_cast<I>(row);
    if (crow[row + 1] > end) return;
  }
}

template <class I>
Status transpose_typed(const Transpose& p, const Runtime& rt) {
  const I* crow = static_cast<const I*>(p.A.crow);
  const I* col = static_cast<const I*>(p.A.col);
  I* const t_crow = static_cast<I*>(p.crow);
  I* const t_col = static_cast<I*>(p.col);
  I* const perm = static_cast<I*>(p.perm);
  const I* const rows = static_cast<const I*>(p.row);
  const int64_t nnz = p.A.nnz, cols = p.A.cols;
  if (crow != nullptr && !rows_cover(crow, p.A.rows, nnz)) return Status::bad_crow;

  // Counting is split by entries, with a table for each share where that is small against the entries.
  const int64_t shares = std::max<int64_t>(1, std::min({int64_t(rt.threads), nnz / kGrain, nnz / (cols + 1)}));
  std::vector<I> counts(static_cast<size_t>(shares * cols));
  const auto from = [&](int64_t share) { return nnz * share / shares; };
  Flag bad;
  take_turns(rt, shares, [&](int64_t share) {
    I* const count = counts.data() + share * cols;
    if (!columns_inside(col + from(share), from(share + 1) - from(share), cols)) return bad.raise();
    // Known before: the counts may be what it is computed from, for all that the compiler knows.
    const int64_t end = from(share + 1);
    for (int64_t e = from(share); e < end; ++e) ++count[col[e]];
  });
  if (bad.is_raised()) return Status::bad_col;
  I* const next = counts.data();
  I place = 0;
  for (int64_t c = 0; c < cols; ++c) {
    I count = 0;
    for (int64_t share = 0; share < shares; ++share) count += counts[share * cols + c];
    t_crow[c] = next[c] = place;
    place += count;
  }
  t_crow[cols] = place;

  const int64_t owners = std::max<int64_t>(1, std::min({int64_t(rt.threads), nnz / kGrain, kMostOwners}));
  take_turns(rt, owners, [&](int64_t owner) {
    const auto bound = [&](int64_t of) {  // the first column that is not left of it
      return std::lower_bound(t_crow, t_crow + cols, static_cast<I>(nnz * of / owners)) - t_crow;
    };
    const int64_t lowest = owner == 0 ? 0 : bound(owner),
                  width = (owner + 1 == owners ? cols : bound(owner + 1)) - lowest;
    I expanded[kBlock + kSpan];
    int32_t mine[kBlock];
    int64_t row = 0;
    for (int64_t begin = 0; begin < nnz; begin += kBlock) {
      const int64_t n = std::min(nnz - begin, kBlock);
      if (crow != nullptr) expand_rows(crow, p.A.rows, begin, begin + n, row, expanded);
      const I* const row_of = crow != nullptr ? expanded : rows + begin;
      int64_t count = 0;
      for (int64_t e = 0; e < n; ++e) {
        mine[count] = static_cast<int32_t>(e);
        count += static_cast<uint64_t>(col[begin + e] - lowest) < static_cast<uint64_t>(width);
      }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t e = mine[i];
        const I to = next[col[begin + e]]++;
        t_col[to] = row_of[e];
        perm[to] = static_cast<I>(begin + e);
      }
    }
  });
  return Status::ok;
}

template <class I>
Status compress_typed(const CompressRows& p, const Runtime& rt) {
  const I* row = static_cast<const I*>(p.row);
  I* const crow = static_cast<I*>(p.crow);
  if (p.nnz > 0 && (row[0] < 0 || row[p.nnz - 1] >= p.rows)) return Status::bad_col;
  const auto start_rows = [&](int64_t after, int64_t upto, int64_t entry) {
    for (int64_t r = after + 1; r <= upto; ++r) crow[r] = static_cast<I>(entry);
  };
  // Two passes: nothing is written through a row that is out of order.
  Flag falls;
  const int64_t shares = (p.nnz + kGrain - 1) / kGrain;
  take_turns(rt, shares, [&](int64_t share) {
    const int64_t first = std::max<int64_t>(0, share * kGrain - 1), last = std::min(p.nnz, (share + 1) * kGrain) - 1;
    if (!rows_rise(row + first, last - first)) falls.raise();
  });
  if (falls.is_raised()) return Status::bad_crow;
  // Every entry says that the row behind its predecessor's begins with it. The last to say so is right, and no branch
  // depends on where a row ends, only on where one is empty. Behind the first entry of a share's last row none does:
  // that row may go on in the next share.
  take_turns(rt, shares, [&](int64_t share) {
    const int64_t begin = share * kGrain, end = std::min(p.nnz, begin + kGrain);
    I last = begin == 0 ? I(-1) : row[begin - 1];
    int64_t stop = end;
    while (stop > begin && row[stop - 1] == row[end - 1]) --stop;
    for (int64_t e = begin; e < stop; ++e) {
      crow[last + 1] = static_cast<I>(e);
      if (row[e] > last + 1) start_rows(last + 1, row[e], e);
      last = row[e];
    }
    if (stop < end) start_rows(last, row[end - 1], stop);
  });
  start_rows(p.nnz == 0 ? -1 : row[p.nnz - 1], p.rows, p.nnz);
  return Status::ok;
}

}  // namespace

Status transpose(const Transpose& p, const Runtime& rt) {
  return p.A.wide ? transpose_typed<int64_t>(p, rt) : transpose_typed<int32_t>(p, rt);
}

Status compress_rows(const CompressRows& p, const Runtime& rt) {
  return p.wide ? compress_typed<int64_t>(p, rt) : compress_typed<int32_t>(p, rt);
}

Status join(const Join& p, const Runtime& rt) {
  Flag bad_row, bad_col;
  const int64_t shares = (p.nnz + kGrain - 1) / kGrain;
  take_turns(rt, shares, [&](int64_t share) {
    const int64_t begin = share * kGrain, n = std::min(p.nnz - begin, kGrain);
    if (!columns_inside(p.item + begin, n, p.batch) || !columns_inside(p.row + begin, n, p.rows))
      return bad_row.raise();
    if (!columns_inside(p.col + begin, n, p.cols)) return bad_col.raise();
    for (int64_t e = begin; e < begin + n; ++e) {
      p.to_row[e] = p.item[e] * p.rows + p.row[e];
      p.to_col[e] = p.item[e] * p.cols + p.col[e];
    }
  });
  return bad_row.is_raised() ? Status::bad_crow : bad_col.is_raised() ? Status::bad_col : Status::ok;
}

}  // namespace myops::cpu
