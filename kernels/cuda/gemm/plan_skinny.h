// Plans of skinny.cuh: how lanes, warps and blocks share K.
#pragma once
#include "plan_common.h"

namespace myops {

constexpr int kSkinnyRows = 16;    // the most rows of a skinny product
constexpr int kSkinnyWarps = 8;    // of a block
constexpr int kSkinnyColumns = 4;  // of a lane; along K, as many loads are in flight
constexpr int kSkinnyUnroll = 4;   // values of K that a lane takes at once where it walks along N

// How a skinny product of wide floats walks through B (skinny.cuh).
enum class SkinnyForm : int8_t { along_n, along_k };

// Columns of one lane.
constexpr int skinny_lane_columns(DType in, SkinnyForm form) {
  return form == SkinnyForm::along_n && element_size(in) == 8 ? 2 : kSkinnyColumns;
}

// 16-bit floats (skinny_mma.cuh): a warp owns 16 * groups columns, and walks along K in stages of as many bytes.
constexpr int kSkinnyStageBytes = 4096;
constexpr int kSkinnyStages = 6;       // the most of a warp
constexpr int kSkinnyShareStep = 128;  // a warp's share of K is a multiple of this, which every stage divides
constexpr int skinny_stage_k(int groups) { return kSkinnyStageBytes / (2 * 16 * groups); }

// Blocks that hide the latency of memory: enough loads in flight on every multiprocessor. Guess.
constexpr int kSkinnyBlocksEach = 2;

inline int64_t skinny_splits(int64_t columns_of_blocks, int64_t wanted, int64_t most) {
  int64_t splits = columns_of_blocks > 0 ? wanted / columns_of_blocks : 1;  // rounded down: no wave of a few blocks
  if (splits > most) splits = most;
  return splits < 1 ? 1 : splits;
}

// How many warps of a block share K: more where blocks are wanted, and where warps would else have no columns.
template <class TilesN>
void share_by_warps(GemmPlan& plan, const Gemm& g, int64_t wanted, int64_t most, const TilesN& tiles_n) {
  for (plan.warps_k = 1; plan.warps_k < kSkinnyWarps && plan.warps_k <= most; plan.warps_k *= 2)
    if (tiles_n(plan.warps_k) * g.batch() >= wanted && tiles_n(2 * plan.warps_k) > tiles_n(plan.warps_k)) break;
}

inline void finish_skinny(GemmPlan& plan, const Gemm& g, int64_t columns_of_blocks) {
  plan.tiles_m = 1;
  plan.splits = g.K == 0 ? 1 : ceil_divide(g.K, plan.split_k);
  plan.tiles = columns_of_blocks * plan.splits;
  plan.blocks = plan.tiles < kMaxBlocks ? plan.tiles : kMaxBlocks;
  if (plan.splits > 1) plan.workspace_bytes = plan.splits * g.batch() * g.M * g.N * (g.in == DType::f64 ? 8 : 4);
}

inline void plan_skinny_mma(GemmPlan& plan, const Gemm& g, const Machine& machine) {
  plan.b_packed = is_packed(g, g.B, !plan.b_along_k, 16);
  // Along N a narrower warp would read less than the 64 bytes that memory moves at once. Warps of twice as many
  // columns, tried on an H100, leave half of the multiprocessors without a block: 20.7 us where these take 18.6 (4096 x
  // 4096).
  plan.warp_columns = plan.b_along_k ? 16 : 32;
  const int64_t wanted = kSkinnyBlocksEach * machine.multiprocessors, steps = ceil_divide(g.K, kSkinnyShareStep);
  const auto tiles_n = [&](int warps_k) { return ceil_divide(g.N, plan.warp_columns * (kSkinnyWarps / warps_k)); };
  share_by_warps(plan, g, wanted, steps / 2, tiles_n);
  plan.tiles_n = tiles_n(plan.warps_k);
  const int64_t columns_of_blocks = plan.tiles_n * g.batch();
  // A second pass costs more than multiprocessors that have nothing to do, unless these are most of them.
  const int64_t splits = 4 * columns_of_blocks > machine.multiprocessors
                             ? 1
                             : skinny_splits(columns_of_blocks, wanted, steps / (2 * plan.warps_k));
  plan.split_k = ceil_divide(steps, splits * plan.warps_k) * plan.warps_k * kSkinnyShareStep;
  if (plan.split_k == 0) plan.split_k = plan.warps_k * kSkinnyShareStep;
  finish_skinny(plan, g, columns_of_blocks);
  // Two blocks fit on a multiprocessor of 227 KB with three stages; one block of a Hopper may have them all.
  const int most = machine.capability == 90 && plan.blocks <= machine.multiprocessors ? kSkinnyStages : 3;
  const int64_t share = plan.split_k / plan.warps_k,
                in_share = ceil_divide(share, skinny_stage_k(plan.warp_columns / 16));
  plan.stages = static_cast<int>(in_share < most ? in_share : most);
}

inline void plan_skinny_wide(GemmPlan& plan, const Gemm& g, const Machine& machine) {
  const int vector = 16 / element_size(g.in);
  const SkinnyForm form = plan.b_along_k ? SkinnyForm::along_k : SkinnyForm::along_n;
  const bool along_n = form == SkinnyForm::along_n;
  plan.b_packed = is_packed(g, g.B, along_n, along_n ? skinny_lane_columns(g.in, form) * element_size(g.in) : 16);
  plan.lanes_k = 4;
  if (!along_n)
    while (plan.lanes_k < 32 && plan.lanes_k * vector < g.K) plan.lanes_k *= 2;
  const int64_t warp_columns = 32 / plan.lanes_k * skinny_lane_columns(g.in, form);
  const int64_t step = along_n ? plan.lanes_k * kSkinnyUnroll : plan.lanes_k * vector;  // along K, of one warp
  const int64_t steps = ceil_divide(g.K, step), wanted = kSkinnyBlocksEach * machine.multiprocessors;
  // First as many columns as there are, then K is shared by the warps, then by blocks: each stage costs a reduction. A
  // warp keeps two steps, so that a load is in flight while the other is used.
  const auto tiles_n = [&](int warps_k) { return ceil_divide(g.N, warp_columns * (kSkinnyWarps / warps_k)); };
  share_by_warps(plan, g, wanted, steps / 4, tiles_n);
  plan.tiles_n = tiles_n(plan.warps_k);
  const int64_t columns_of_blocks = plan.tiles_n * g.batch();
  const int64_t splits = skinny_splits(columns_of_blocks, wanted, steps / (2 * plan.warps_k));
  plan.split_k = ceil_divide(steps, splits * plan.warps_k) * plan.warps_k * step;
  finish_skinny(plan, g, columns_of_blocks);
}

inline GemmPlan plan_skinny(const Gemm& problem, const Machine& machine) {
  GemmPlan plan;
  plan.kernel = GemmKernel::skinny;
  plan.transpose = problem.N < problem.M;
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  plan.b_along_k = loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
  plan.a_along_k = true;
  plan.early = machine.capability == 90;
  plan.a_packed = is_packed(g, g.A, true, 16);
  if (element_size(g.in) == 2)
    plan_skinny_mma(plan, g, machine);
  else
    plan_skinny_wide(plan, g, machine);
  return plan;
}

inline bool takes_skinny(const Gemm& problem) {
  if (!is_floating(problem.in) || (problem.M > kSkinnyRows && problem.N > kSkinnyRows)) return false;
  const Gemm g = problem.N < problem.M ? transposed(problem) : problem;
  if (loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N) && g.K < 4 * (16 / element_size(g.in))) return false;
  // Stores run along N. Where that is not the unit stride of D, the sums have to be long enough to outweigh them.
  return g.D.col_stride == 1 || g.N == 1 || g.K >= 8 * g.M;
}

}  // namespace myops
