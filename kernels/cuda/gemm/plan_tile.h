// Plans of tile.cuh.
#pragma once
#include "plan_common.h"

namespace myops {

// A block computes m x n results in steps of k; each thread owns thread_m x thread_n of them.
struct TileShape {
  int m, n, k, thread_m, thread_n;

  constexpr int threads() const { return m / thread_m * (n / thread_n); }
};

// Per accumulator width. Both sizes of a row share k, so that padding the last step adds the same zeros. The bounds are
// 48 KB of static shared memory for two stages and 255 registers. Rows are guesses until they meet a GPU.
// Tried on the 128 x 128 tile: a bound of 128 registers, for two blocks per multiprocessor, spills 70 to 150 bytes with
// k = 16 and 50 to 60 with k = 8.
constexpr TileShape tile_shape(DType in, TileSize size) {
  const bool large = size == TileSize::large;
  if (in == DType::c128) return large ? TileShape{64, 64, 8, 4, 4} : TileShape{32, 32, 8, 4, 4};
  if (element_size(in) == 8) return large ? TileShape{64, 64, 16, 4, 4} : TileShape{32, 32, 16, 4, 4};
  return large ? TileShape{128, 128, 16, 8, 8} : TileShape{32, 32, 16, 4, 4};
}

// The plan with a given tile.
inline GemmPlan plan_with_tile(const Gemm& problem, TileSize size, int64_t max_blocks = kMaxBlocks) {
  GemmPlan plan;
  plan.size = size;
  // A complex product is never transposed: its imaginary part is summed in the order of the operands, and the bits of a
  // row would depend on the strides of D.
  plan.transpose = !is_complex(problem.in) && problem.M > 1 && problem.D.row_stride == 1 && problem.D.col_stride != 1;
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  plan.a_along_k = loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M);
  plan.b_along_k = loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
  const TileShape shape = tile_shape(g.in, size);
  plan.tiles_m = (g.M + shape.m - 1) / shape.m;
  plan.tiles_n = (g.N + shape.n - 1) / shape.n;
  plan.tiles = plan.tiles_m * plan.tiles_n * g.batch();
  plan.blocks = plan.tiles < max_blocks ? plan.tiles : max_blocks;
  return plan;
}

// Rounds of tiles that the busiest multiprocessor computes, weighted by tile area; a small tile reads twice as much
// shared memory per product (guess: half the rate).
inline double plan_cost(const Gemm& problem, const GemmPlan& plan, int multiprocessors) {
  const TileShape shape = tile_shape(problem.in, plan.size);
  const double rounds = static_cast<double>((plan.tiles + multiprocessors - 1) / multiprocessors);
  return rounds * shape.m * shape.n * (plan.size == TileSize::large ? 1.0 : 2.0);
}

inline GemmPlan plan_tile(const Gemm& problem, const Machine& machine) {
  const GemmPlan small = plan_with_tile(problem, TileSize::small);
  const GemmPlan large = plan_with_tile(problem, TileSize::large);
  const int n = machine.multiprocessors;
  return plan_cost(problem, large, n) < plan_cost(problem, small, n) ? large : small;
}

}  // namespace myops
