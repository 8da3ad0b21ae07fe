// Plans of mma_tile.cuh and wgmma_tile.cuh, and of the copies that align their operands (pack.cu).
#pragma once
#include "plan_common.h"

namespace myops {

// A block of warps_m x warps_n warps computes m x n results on tensor cores. 64 x 64 per warp reads least
// of shared memory.
struct MmaShape {
  int m, n, warps_m, warps_n;
};
constexpr MmaShape mma_shape(TileSize size) {
  return size == TileSize::large ? MmaShape{128, 128, 2, 2} : MmaShape{64, 64, 2, 2};
}

// Tiles of a Hopper: 128 rows, 64 to a consumer warpgroup, which has registers for 256 columns. Not yet measured.
constexpr int kWgmmaTileM = 128;
constexpr int wgmma_tile_n(TileSize size) { return size == TileSize::large ? 256 : 128; }
constexpr int kWgmmaBatchDims = 3;  // of a tensor map beside its matrix

// An operand seen as lines (rows of A, columns of B) by K, and the copy of it that is aligned. Rows of `from` and `to`
// are lines. A batch dimension of stride 0 has one item here.
struct PackOperand {
  MatrixView from, to;
  bool from_along_k = true, to_along_k = true;
  int64_t lines = 0, K = 0, items = 1;
  int batch_dims = 0;
  int64_t batch_size[kMaxBatchDims] = {};
  int64_t bytes = 0;
};

inline PackOperand pack_operand_plan(const Gemm& g, const MatrixView& v, bool is_a, bool from_along_k,
                                     bool to_along_k) {
  PackOperand p;
  p.from = p.to = v;
  if (!is_a) swap_matrix_dims(p.from);
  p.from_along_k = from_along_k, p.to_along_k = to_along_k;
  p.lines = is_a ? g.M : g.N, p.K = g.K;
  const int64_t unit = 16 / element_size(g.in), pitch = ceil_divide(to_along_k ? p.K : p.lines, unit) * unit;
  p.to.row_stride = to_along_k ? pitch : 1, p.to.col_stride = to_along_k ? 1 : pitch;
  int64_t step = pitch * (to_along_k ? p.lines : p.K);
  p.batch_dims = g.batch_dims;
  for (int i = g.batch_dims - 1; i >= 0; --i) {
    p.batch_size[i] = v.batch_stride[i] == 0 ? 1 : g.batch_size[i];
    p.to.batch_stride[i] = v.batch_stride[i] == 0 ? 0 : step;
    step *= p.batch_size[i];
    p.items *= p.batch_size[i];
  }
  p.bytes = ceil_divide(step * element_size(g.in), 256) * 256;
  return p;
}

// The same of `problem` transposed as the plan says. Bytes have no transposing load: their operands run along K.
inline PackOperand pack_a(const Gemm& g, const GemmPlan& plan) {
  return pack_operand_plan(g, g.A, true, loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M), plan.a_along_k);
}
inline PackOperand pack_b(const Gemm& g, const GemmPlan& plan) {
  return pack_operand_plan(g, g.B, false, loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N), plan.b_along_k);
}

// The plan of a tensor-core kernel with a given tile.
inline GemmPlan plan_tensor(const Gemm& problem, GemmKernel kernel, TileSize size, int multiprocessors) {
  GemmPlan plan;
  plan.kernel = kernel;
  plan.size = size;
  plan.transpose = problem.M > 1 && problem.D.row_stride == 1 && problem.D.col_stride != 1;
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  const bool bytes = element_size(g.in) == 1;
  plan.a_along_k = bytes || loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M);
  plan.b_along_k = bytes || loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
  // A tensor map has no rows that are one row repeated.
  const auto repeats = [&](int64_t stride, int64_t size) {
    return kernel == GemmKernel::wgmma && stride == 0 && size > 1;
  };
  plan.a_packed = is_packed(g, g.A, plan.a_along_k, 16) &&
                  !repeats(plan.a_along_k ? g.A.row_stride : g.A.col_stride, plan.a_along_k ? g.M : g.K);
  plan.b_packed = is_packed(g, g.B, !plan.b_along_k, 16) &&
                  !repeats(plan.b_along_k ? g.B.col_stride : g.B.row_stride, plan.b_along_k ? g.N : g.K);
  if (!plan.a_packed) plan.a_pack_bytes = pack_a(g, plan).bytes;
  if (!plan.b_packed) plan.b_pack_bytes = pack_b(g, plan).bytes;
  plan.workspace_bytes = plan.a_pack_bytes + plan.b_pack_bytes;
  const MmaShape shape = mma_shape(size);
  const bool hopper = kernel == GemmKernel::wgmma;
  plan.tiles_m = ceil_divide(g.M, hopper ? kWgmmaTileM : shape.m);
  plan.tiles_n = ceil_divide(g.N, hopper ? wgmma_tile_n(size) : shape.n);
  plan.tiles = plan.tiles_m * plan.tiles_n * g.batch();
  const int64_t most = hopper ? multiprocessors : kMaxBlocks;  // wgmma: a block stays, and has a multiprocessor alone
  plan.blocks = plan.tiles < most ? plan.tiles : most;
  return plan;
}

// Rounds of tiles that the busiest multiprocessor computes, weighted by area and by what the kernel loses against wgmma
// with its large tile. The weights are guesses until they meet a GPU.
inline GemmPlan plan_tensor_cores(const Gemm& problem, const Machine& machine) {
  struct Candidate {
    GemmKernel kernel;
    TileSize size;
    double weight;
  };
  constexpr Candidate kCandidates[] = {{GemmKernel::wgmma, TileSize::large, 1.0},
                                       {GemmKernel::wgmma, TileSize::small, 1.15},
                                       {GemmKernel::mma, TileSize::large, 1.6},
                                       {GemmKernel::mma, TileSize::small, 2.4}};
  constexpr int64_t kMostCoordinates = int64_t(1) << 31;  // of a tensor map's dimension
  const bool hopper = machine.capability == 90 && is_floating(problem.in) && problem.batch_dims <= kWgmmaBatchDims &&
                      problem.M < kMostCoordinates - kWgmmaTileM && problem.N < kMostCoordinates - 256 &&
                      problem.K < kMostCoordinates - 64;
  GemmPlan best;
  double best_cost = 0;
  for (const Candidate& c : kCandidates) {
    if (c.kernel == GemmKernel::wgmma ? !hopper : hopper && problem.batch_invariant) continue;
    const GemmPlan plan = plan_tensor(problem, c.kernel, c.size, machine.multiprocessors);
    const double area = c.kernel == GemmKernel::wgmma ? double(kWgmmaTileM) * wgmma_tile_n(c.size)
                                                      : double(mma_shape(c.size).m) * mma_shape(c.size).n;
    const double cost = double(ceil_divide(plan.tiles, machine.multiprocessors)) * area * c.weight;
    if (best.tiles == 0 || cost < best_cost) best = plan, best_cost = cost;
  }
  return best;
}

// Below this many products a second launch, which packs, costs more than tensor cores save. Guess.
constexpr double kPackProducts = 64.0 * 64 * 64;

inline bool takes_tensor_cores(const Gemm& g, const Machine& machine) {
  if (element_size(g.in) > 2 || g.in == DType::i16 || g.in == DType::boolean) return false;
  if (g.batch_invariant && is_floating(g.in)) return true;
  const GemmPlan plan = plan_tensor(g, GemmKernel::mma, TileSize::small, machine.multiprocessors);
  return plan.workspace_bytes == 0 || double(g.M) * g.N * g.K * g.batch() >= kPackProducts;
}

}  // namespace myops
