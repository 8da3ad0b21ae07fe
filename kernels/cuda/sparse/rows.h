// How the rows of a sparse product are shared out over lanes: a pure function of sizes, plain C++.
//
// A team of lanes computes one row of D over one tile of columns: `group` lanes lie along the columns, each with
// `vector` of them, times `entry lanes` that take every so many-th entry of the row and add up in the end. A warp holds
// as many teams as fit. So a row of 64 float32 takes 16 lanes of 16 bytes, and a row of one column is still walked by
// several lanes where rows are long.
//
// A row of 2 * kSegment entries or more is cut into segments of equal size, each a team of its own whose sums go to
// memory and are added in order by a last kernel. Which rows those are is found on the device, without waiting; the
// host knows only that there are at most nnz / kSegment segments.
#pragma once
#include "../../sparse_view.h"

namespace myops {

// Guesses until they meet a GPU: a segment keeps a team busy for some tens of microseconds.
constexpr int64_t kSegment = 512;
constexpr int64_t kMostSegments = 4096;  // of one row; what the last kernel adds up serially
constexpr int64_t kEntriesPerLane = 8;   // on average, for another lane along the entries to pay
constexpr int kWarpShift = 5, kThreadsShift = 8;

struct RowsPlan {
  int group_shift = 0;   // log2 of the lanes along the columns
  int team_shift = 0;    // log2 of the lanes of a team
  int64_t tiles = 0;     // of columns
  int64_t segments = 0;  // at most
  int64_t blocks_per_tile = 0, blocks = 0;
};

inline RowsPlan plan_rows(const Csr& A, int64_t N, int64_t vector) {
  RowsPlan plan;
  const int64_t packs = (N + vector - 1) / vector;
  while (plan.group_shift < kWarpShift && (int64_t(1) << plan.group_shift) < packs) ++plan.group_shift;
  plan.tiles = (packs + (int64_t(1) << plan.group_shift) - 1) >> plan.group_shift;
  plan.team_shift = plan.group_shift;
  const int64_t mean = A.rows > 0 ? A.nnz / A.rows : 0;
  while (plan.team_shift < kWarpShift && mean >> (plan.team_shift - plan.group_shift) >= kEntriesPerLane)
    ++plan.team_shift;
  plan.segments = A.nnz < 2 * kSegment ? 0 : A.nnz / kSegment;
  const int64_t teams = int64_t(1) << (kThreadsShift - plan.team_shift);  // of a block
  plan.blocks_per_tile = (plan.segments + A.rows + teams - 1) / teams;
  plan.blocks = plan.blocks_per_tile * plan.tiles;
  return plan;
}

}  // namespace myops
