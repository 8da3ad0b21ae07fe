// Plans of limb_tile.cuh.
#pragma once
#include "plan_common.h"

namespace myops {

// A block of warps_m x warps_n warps computes m x n results in steps of `depth` values of K.
struct LimbShape {
  int m, n, depth, warps_m, warps_n;

  constexpr int threads() const { return 32 * warps_m * warps_n; }
};

// A warp has sums of its 32 x 32 results for every byte of an element: 128 registers for int32. For int64 16 x 16.
constexpr LimbShape limb_shape(DType in) {
  const int bytes = element_size(in);
  return bytes == 8 ? LimbShape{32, 32, 64, 2, 2} : LimbShape{64, 64, 128 / bytes, 2, 2};
}

inline GemmPlan plan_limb(const Gemm& problem) {
  GemmPlan plan;
  plan.kernel = GemmKernel::limb;
  plan.transpose = problem.M > 1 && problem.D.row_stride == 1 && problem.D.col_stride != 1;
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  plan.a_along_k = loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M);
  plan.b_along_k = loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
  plan.a_packed = plan.a_along_k && is_packed(g, g.A, true, 16);
  plan.b_packed = plan.b_along_k && is_packed(g, g.B, false, 16);
  const LimbShape shape = limb_shape(g.in);
  plan.tiles_m = ceil_divide(g.M, shape.m);
  plan.tiles_n = ceil_divide(g.N, shape.n);
  plan.tiles = plan.tiles_m * plan.tiles_n * g.batch();
  plan.blocks = plan.tiles < kMaxBlocks ? plan.tiles : kMaxBlocks;
  return plan;
}

// Below these sides most of a tile is empty. Above so many products of bytes, the larger tile of mma, which needs
// operands along K and may have to pack them, is worth it. Guesses.
constexpr int64_t kLimbSide = 17, kLimbDepth = 32;
constexpr double kLimbByteProducts = 640.0 * 640 * 640;

inline bool takes_limb(const Gemm& g) {
  if (!is_integral(g.in) || g.in == DType::boolean) return false;
  if (g.M < kLimbSide || g.N < kLimbSide || g.K < kLimbDepth) return false;
  return element_size(g.in) > 1 || double(g.M) * g.N * g.K * g.batch() <= kLimbByteProducts;
}

}  // namespace myops
