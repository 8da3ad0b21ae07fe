// Plans of skinny.cuh: how lanes, warps and blocks share K.
#pragma once
#include "plan_common.h"

namespace myops {

constexpr int kSkinnyRows = 16;    // the most rows of a skinny product
constexpr int kSkinnyWarps = 8;    // of a block
constexpr int kSkinnyColumns = 4;  // of a lane; along K, as many loads are in flight
constexpr int kSkinnyUnroll = 4;   // values of K that a lane takes at once where it walks along N

// How a skinny product walks through B (skinny.cuh).
enum class SkinnyForm : int8_t { along_n, along_k, tensor };
constexpr SkinnyForm skinny_form(DType in, bool b_along_k) {
  return !b_along_k ? SkinnyForm::along_n : element_size(in) == 2 ? SkinnyForm::tensor : SkinnyForm::along_k;
}

// Columns of one lane; where lanes share columns, those of a warp over its lanes along N. Four of 16 bits, although a
// load may have eight: the sums of 16 rows by eight columns leave no registers for loads in flight (8 bytes spilled).
constexpr int skinny_lane_columns(DType in, SkinnyForm form) {
  if (form == SkinnyForm::tensor) return 2;
  return form == SkinnyForm::along_n && element_size(in) == 8 ? 2 : kSkinnyColumns;
}
constexpr int kSkinnyTensorStep = 32 * kSkinnyUnroll;  // values of K that a warp takes at once in the form `tensor`

// Blocks that hide the latency of memory: enough loads in flight on every multiprocessor. Guess.
constexpr int kSkinnyBlocksEach = 2;

inline GemmPlan plan_skinny(const Gemm& problem, const Machine& machine) {
  GemmPlan plan;
  plan.kernel = GemmKernel::skinny;
  plan.transpose = problem.N < problem.M;
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  const int vector = 16 / element_size(g.in);
  plan.b_along_k = loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
  plan.a_along_k = true;
  plan.a_packed = is_packed(g, g.A, true, 16);
  const SkinnyForm form = skinny_form(g.in, plan.b_along_k);
  const bool along_n = form == SkinnyForm::along_n;
  plan.b_packed = is_packed(g, g.B, along_n, along_n ? skinny_lane_columns(g.in, form) * element_size(g.in) : 16);
  plan.lanes_k = 4;
  if (form == SkinnyForm::along_k)
    while (plan.lanes_k < 32 && plan.lanes_k * vector < g.K) plan.lanes_k *= 2;
  const int64_t warp_columns = 32 / plan.lanes_k * skinny_lane_columns(g.in, form);
  const int64_t step = form == SkinnyForm::tensor    ? kSkinnyTensorStep  // along K, of one warp
                       : form == SkinnyForm::along_k ? plan.lanes_k * vector
                                                     : plan.lanes_k * kSkinnyUnroll;
  const int64_t steps = ceil_divide(g.K, step), wanted = kSkinnyBlocksEach * machine.multiprocessors;
  // First as many columns as there are, then K is shared by the warps, then by blocks: each stage costs a reduction. A
  // warp keeps two steps, so that a load is in flight while the other is used.
  const auto tiles_n = [&](int warps_k) { return ceil_divide(g.N, warp_columns * (kSkinnyWarps / warps_k)); };
  plan.warps_k = 1;
  while (plan.warps_k < kSkinnyWarps && tiles_n(plan.warps_k) * g.batch() < wanted && steps >= 4 * plan.warps_k)
    plan.warps_k *= 2;
  plan.tiles_m = 1;
  plan.tiles_n = tiles_n(plan.warps_k);
  const int64_t columns_of_blocks = plan.tiles_n * g.batch();
  int64_t splits = 1;
  if (columns_of_blocks > 0 && columns_of_blocks < wanted) {
    const int64_t most = steps / (2 * plan.warps_k);
    splits = wanted / columns_of_blocks;  // rounded down: a second pass for a few blocks more does not pay
    if (splits > most) splits = most;
    if (splits < 1) splits = 1;
  }
  plan.split_k = ceil_divide(steps, splits * plan.warps_k) * plan.warps_k * step;
  plan.splits = g.K == 0 ? 1 : ceil_divide(g.K, plan.split_k);
  plan.tiles = columns_of_blocks * plan.splits;
  plan.blocks = plan.tiles < kMaxBlocks ? plan.tiles : kMaxBlocks;
  if (plan.splits > 1) plan.workspace_bytes = plan.splits * g.batch() * g.M * g.N * (g.in == DType::f64 ? 8 : 4);
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
