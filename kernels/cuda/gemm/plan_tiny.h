// Plans of tiny.cuh.
#pragma once
#include "plan_common.h"

namespace myops {

constexpr int kTinySide = 32;

// The threads of a block of tiny products, and their side rounded up. A thread owns 4 x 4 results.
constexpr int tiny_threads(DType in) { return element_size(in) == 8 ? 64 : 128; }
constexpr int tiny_items(DType in, int side) { return tiny_threads(in) / (side / 4 * (side / 4)); }
inline int tiny_side(const Gemm& g) {
  int side = 4;
  while (side < g.M || side < g.N) side *= 2;
  return side;
}

inline GemmPlan plan_tiny(const Gemm& problem) {
  GemmPlan plan;
  plan.kernel = GemmKernel::tiny;
  plan.transpose = problem.M > 1 && problem.D.row_stride == 1 && problem.D.col_stride != 1;
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  plan.a_along_k = loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M);
  plan.b_along_k = loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
  // A group of neighbours must not run over the end of its row.
  const int side = tiny_side(g), bytes = side == 4 && element_size(g.in) == 2 ? 8 : 16;
  const int64_t vector = bytes / element_size(g.in);
  plan.a_packed = (plan.a_along_k ? g.K : g.M) % vector == 0 && is_packed(g, g.A, plan.a_along_k, bytes);
  plan.b_packed = (plan.b_along_k ? g.K : g.N) % vector == 0 && is_packed(g, g.B, !plan.b_along_k, bytes);
  plan.tiles = ceil_divide(g.batch(), tiny_items(g.in, side));
  plan.blocks = plan.tiles < kMaxBlocks ? plan.tiles : kMaxBlocks;
  return plan;
}

inline bool takes_tiny(const Gemm& g, const Machine& machine) {
  return is_floating(g.in) && g.M <= kTinySide && g.N <= kTinySide && g.K <= 2 * kTinySide &&
         g.batch() >= 2 * machine.multiprocessors;
}

}  // namespace myops
