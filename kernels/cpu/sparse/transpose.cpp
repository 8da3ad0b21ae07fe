// Threads count the columns of their share of the entries, the counts become starting places, and each thread moves its
// share: the order of a serial sort, whatever the number of threads.
#include "transpose.h"

#include <algorithm>
#include <vector>

namespace myops::cpu {
namespace {

template <class I>
Status transpose_typed(const Transpose& p, const Runtime& rt) {
  const I* crow = static_cast<const I*>(p.A.crow);
  const I* col = static_cast<const I*>(p.A.col);
  I* const t_crow = static_cast<I*>(p.crow);
  I* const t_col = static_cast<I*>(p.col);
  I* const perm = static_cast<I*>(p.perm);
  const int64_t nnz = p.A.nnz, cols = p.A.cols;
  if (crow[0] != 0 || crow[p.A.rows] != nnz || !std::is_sorted(crow, crow + p.A.rows + 1)) return Status::bad_crow;

  // A second table of counts pays where it is small against the entries.
  constexpr int64_t kGrain = 16384;
  const int64_t shares = std::max<int64_t>(1, std::min({int64_t(rt.threads), nnz / kGrain, nnz / (cols + 1)}));
  std::vector<I> next(static_cast<size_t>(shares * cols));
  const auto from = [&](int64_t share) { return nnz * share / shares; };
  Flag bad;
  take_turns(rt, shares, [&](int64_t share) {
    I* const count = next.data() + share * cols;
    for (int64_t e = from(share); e < from(share + 1); ++e) {
      if (static_cast<uint64_t>(col[e]) >= static_cast<uint64_t>(cols)) return bad.raise();
      ++count[col[e]];
    }
  });
  if (bad.status() != Status::ok) return bad.status();
  I place = 0;
  for (int64_t c = 0; c < cols; ++c) {
    t_crow[c] = place;
    for (int64_t share = 0; share < shares; ++share) {
      I& start = next[static_cast<size_t>(share * cols + c)];
      const I count = start;
      start = place;
      place += count;
    }
  }
  t_crow[cols] = place;
  take_turns(rt, shares, [&](int64_t share) {
    I* const place_of = next.data() + share * cols;
    int64_t e = from(share);
    int64_t row = std::upper_bound(crow, crow + p.A.rows + 1, static_cast<I>(e)) - crow - 1;
    for (; e < from(share + 1); ++row)
      for (const int64_t end = std::min<int64_t>(crow[row + 1], from(share + 1)); e < end; ++e) {
        const I to = place_of[col[e]]++;
        t_col[to] = static_cast<I>(row);
        perm[to] = static_cast<I>(e);
      }
  });
  return Status::ok;
}

template <class I>
Status compress_typed(const CompressRows& p, const Runtime& rt) {
  const I* row = static_cast<const I*>(p.row);
  I* const crow = static_cast<I*>(p.crow);
  if (p.nnz > 0 && (row[0] < 0 || row[p.nnz - 1] >= p.rows)) return Status::bad_col;
  constexpr int64_t kGrain = 1 << 16;
  const auto start_rows = [&](int64_t after, int64_t upto, int64_t entry) {
    for (int64_t r = after + 1; r <= upto; ++r) crow[r] = static_cast<I>(entry);
  };
  // Two passes: nothing is written through a row that is out of order.
  Flag falls;
  const int64_t shares = (p.nnz + kGrain - 1) / kGrain;
  take_turns(rt, shares, [&](int64_t share) {
    bool fall = false;
    const int64_t end = std::min(p.nnz, (share + 1) * kGrain);
    for (int64_t e = std::max<int64_t>(1, share * kGrain); e < end; ++e) fall |= row[e] < row[e - 1];
    if (fall) falls.raise();
  });
  if (falls.status() != Status::ok) return Status::bad_crow;
  take_turns(rt, shares, [&](int64_t share) {
    const int64_t begin = share * kGrain, end = std::min(p.nnz, begin + kGrain);
    I last = begin == 0 ? I(-1) : row[begin - 1];
    for (int64_t e = begin; e < end; ++e)
      if (row[e] != last) {
        start_rows(last, row[e], e);
        last = row[e];
      }
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

}  // namespace myops::cpu
