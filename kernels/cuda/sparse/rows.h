// How the rows of a sparse product are shared out over lanes: a pure function of sizes, plain C++.
//
// The work is a path: the entries in order, and after the entries of each row one more step, its end. A block takes a
// chunk of the path, as many steps as every other, over one tile of columns, so that neither a long row nor many empty
// ones make a block slow. The teams of a block share its steps out in the same way. The lanes of a team lie along the
// columns, each with `vector` of them.
//
// Nothing here looks at the entries: the host does not wait for the device.
#pragma once
#include "../../sparse_view.h"

namespace myops {

constexpr int kThreadsShift = 8;
constexpr int kMostLanesShift = 4;   // 256 bytes of a row of B: a tile of 100,000 rows is half the L2 cache of an H100
constexpr int kLeastLanesShift = 2;  // 64 bytes
constexpr int64_t kLongRows = 64;    // entries on average, for narrow tiles to pay: each reads all entries again
constexpr int64_t kTileBytes = 1 << 17;  // of B, that stay in the L1 cache
constexpr int64_t kBlocksWanted = 1056;  // eight for each multiprocessor of an H100, and the same on every device
constexpr int64_t kMostSteps = 1024, kLeastTeamSteps = 5, kTeamSteps = 9;

struct RowsPlan {
  int group_shift = 0;  // log2 of the lanes of a team
  int team_steps = 1;   // odd: what teams read from shared memory at once lies in different banks
  int steps = 1;        // of a block
  int64_t tiles = 0;    // of columns
  int64_t chunks = 0;   // of the path
};

// bytes: of an element of B.
inline RowsPlan plan_rows(const Csr& A, int64_t N, int64_t vector, int64_t bytes) {
  RowsPlan plan;
  const int64_t packs = (N + vector - 1) / vector, pack = vector * bytes;
  while (plan.group_shift < kMostLanesShift && (int64_t(1) << plan.group_shift) < packs) ++plan.group_shift;
  const bool narrow = A.nnz >= A.rows * kLongRows && A.cols * (pack << kLeastLanesShift) <= 2 * kTileBytes;
  if (narrow)
    while (plan.group_shift > kLeastLanesShift && A.cols * (pack << plan.group_shift) > kTileBytes) --plan.group_shift;
  plan.tiles = (packs + (int64_t(1) << plan.group_shift) - 1) >> plan.group_shift;
  const int64_t path = A.rows + A.nnz, teams = int64_t(1) << (kThreadsShift - plan.group_shift);
  int64_t most = (narrow ? 2 : 1) * kMostSteps / teams, wanted = path * plan.tiles / (kBlocksWanted * teams);
  if (most < kTeamSteps) most = kTeamSteps;
  wanted = wanted < kLeastTeamSteps ? kLeastTeamSteps : wanted < most ? wanted : most;
  plan.team_steps = static_cast<int>(wanted | 1);
  plan.steps = static_cast<int>(plan.team_steps * teams);
  plan.chunks = (path + plan.steps - 1) / plan.steps;
  return plan;
}

}  // namespace myops
