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

}  // namespace

Status transpose(const Transpose& p, const Runtime& rt) {
  return p.A.wide ? transpose_typed<int64_t>(p, rt) : transpose_typed<int32_t>(p, rt);
}

}  // namespace myops::cpu
