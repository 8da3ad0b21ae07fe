// Plans of mma_tile.cuh and wgmma_tile.cuh, and of the copies that align their operands (pack.cu).
#pragma once
#include "plan_common.h"

namespace myops {

// A block of warps_m x warps_n warps computes m x n results on tensor cores. 64 x 64 per warp reads least of shared
// memory.
struct MmaShape {
  int m, n, warps_m, warps_n;
};
constexpr bool has_mma_shape(TileSize size) { return size == TileSize::large || size == TileSize::small; }
constexpr MmaShape mma_shape(TileSize size) {
  return size == TileSize::large ? MmaShape{128, 128, 2, 2} : MmaShape{64, 64, 2, 2};
}

// Tiles of a Hopper. A block has two consumer warpgroups, each with registers for 64 rows by 256 columns. They share a
// tile of 128 rows; of 64 rows each has a tile of its own, in turn, and multiplies while the other ends its tile. In a
// cluster, blocks with neighbouring rows load B for each other, and those with neighbouring columns load A. What a
// cluster loads for its products is the same in `large` and `pingpong`: 256 x 256 results.
struct WgmmaShape {
  int m, n, cluster_m, cluster_n;

  constexpr int cluster() const { return cluster_m * cluster_n; }
};
constexpr bool has_wgmma_shape(TileSize size) { return size != TileSize::medium; }
constexpr WgmmaShape wgmma_shape(TileSize size) {
  return size == TileSize::large      ? WgmmaShape{128, 256, 2, 1}
         : size == TileSize::small    ? WgmmaShape{128, 128, 1, 1}
         : size == TileSize::pingpong ? WgmmaShape{64, 256, 4, 1}
                                      : WgmmaShape{128, 64, 1, 2};
}
constexpr int kWgmmaBatchDims = 3;  // of a tensor map beside its matrix

// Whether the tiles of wgmma, of a cluster 128 x 128 at least, have numbers of 32 bits, and the items coordinates.
// Larger batches, of 4 GB of D at least, are for mma, batch_invariant or not.
inline bool numbers_wgmma_tiles(const Gemm& g) {
  return ceil_divide(g.M, 128) * ceil_divide(g.N, 128) * g.batch() < int64_t(1) << 31;
}

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

// The same of `problem` transposed as the plan says.
inline PackOperand pack_a(const Gemm& g, const GemmPlan& plan) {
  return pack_operand_plan(g, g.A, true, loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M), plan.a_along_k);
}
inline PackOperand pack_b(const Gemm& g, const GemmPlan& plan) {
  return pack_operand_plan(g, g.B, false, loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N), plan.b_along_k);
}

// Whether the results of wgmma can move as whole tiles: D by TMA, C by TMA or one row of it. A TMA store writes whole
// chunks of 16 bytes: where a row ends within one, also what lies behind it (measured on an H100, triton issue 11583).
inline bool stores_tiles(const Gemm& g) {
  if (g.out != g.in || !is_packed(g, g.D, true, 16) || g.N * element_size(g.out) % 16 != 0) return false;
  const bool matrix_c = g.C.data != nullptr && g.C.row_stride != 0;
  // What the activation is applied to takes the place of C.
  if (g.preactivation != nullptr && (matrix_c || reinterpret_cast<uintptr_t>(g.preactivation) % 16 != 0)) return false;
  return g.C.data == nullptr || (g.c_type == g.in && (!matrix_c || is_packed(g, g.C, true, 16)));
}

// The tiles of wgmma and its blocks: a tile is one of a cluster, and a block stays and has a multiprocessor alone.
inline void plan_wgmma_tiles(GemmPlan& plan, const Gemm& g, int multiprocessors) {
  const WgmmaShape shape = wgmma_shape(plan.size);
  const int clusters = multiprocessors < shape.cluster() ? 1 : multiprocessors / shape.cluster();
  cut_into_tiles(plan, g, shape.cluster_m * shape.m, shape.cluster_n * shape.n, clusters);
  plan.blocks *= shape.cluster();
}

// The plan of a tensor-core kernel with a given tile.
inline GemmPlan plan_tensor(const Gemm& problem, GemmKernel kernel, TileSize size, const Machine& machine) {
  GemmPlan plan;
  plan.kernel = kernel;
  plan.size = size;
  plan.transpose = runs_down(problem);
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  const bool only_along_k = element_size(g.in) != 2;  // nothing transposes elements of other sizes on their way
  plan.a_along_k = only_along_k || loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M);
  plan.b_along_k = only_along_k || loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
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
  if (kernel == GemmKernel::wgmma) {
    plan_wgmma_tiles(plan, g, machine.multiprocessors);
    plan.stores_tiles = element_size(g.in) == 2 && stores_tiles(g);
    plan.packed_rows = g.D.col_stride == 1 && is_packed(g, g.D, true, 8 * element_size(g.in));
  } else {
    const MmaShape shape = mma_shape(size);
    cut_into_tiles(plan, g, shape.m, shape.n);
    plan.early = machine.capability == 90;
  }
  return plan;
}

// Rounds of tiles that the busiest multiprocessor computes, each with its steps of 64 values of K (32 of float32) and
// its end. Times in microseconds, of bfloat16, measured. `pingpong` has not met a GPU, and is taken by name alone.
inline GemmPlan plan_tensor_cores(const Gemm& problem, const Machine& machine) {
  struct Candidate {
    GemmKernel kernel;
    TileSize size;
    double step, end;
  };
  constexpr Candidate kCandidates[] = {{GemmKernel::wgmma, TileSize::large, 0.74, 2.6},
                                       {GemmKernel::wgmma, TileSize::small, 0.375, 1.2},
                                       {GemmKernel::wgmma, TileSize::narrow, 0.28, 0.8},
                                       {GemmKernel::mma, TileSize::large, 0.70, 1.0},
                                       {GemmKernel::mma, TileSize::small, 0.28, 0.8}};
  constexpr int64_t kMostCoordinates = int64_t(1) << 31;  // of a tensor map's dimension
  const bool hopper = machine.capability == 90 && has_tensor_floats(problem) && problem.batch_dims <= kWgmmaBatchDims &&
                      problem.M < kMostCoordinates - 256 && problem.N < kMostCoordinates - 256 &&
                      problem.K < kMostCoordinates - 64 && numbers_wgmma_tiles(problem);
  GemmPlan best;
  double best_cost = 0;
  for (const Candidate& c : kCandidates) {
    if (c.kernel == GemmKernel::wgmma ? !hopper : hopper && problem.batch_invariant) continue;
    const int cluster = c.kernel == GemmKernel::wgmma ? wgmma_shape(c.size).cluster() : 1;
    if (cluster > machine.multiprocessors) continue;
    const GemmPlan plan = plan_tensor(problem, c.kernel, c.size, machine);
    const double rounds = double(ceil_divide(plan.tiles, machine.multiprocessors / cluster));
    const double cost = rounds * (double(ceil_divide(problem.K, problem.in == DType::f32 ? 32 : 64)) * c.step + c.end);
    if (best.tiles == 0 || cost < best_cost) best = plan, best_cost = cost;
  }
  return best;
}

// Below this many products a second launch, which packs, costs more than tensor cores save; and so few of an item leave
// its tile nearly empty. Guesses.
constexpr double kPackProducts = 64.0 * 64 * 64, kPackProductsTf32 = 256.0 * 256 * 256, kPackItem = 16.0 * 16 * 16;

inline bool takes_tensor_cores(const Gemm& g, const Machine& machine) {
  if (!has_tensor_floats(g) && g.in != DType::i8 && g.in != DType::u8) return false;
  if (g.batch_invariant && is_floating(g.in)) return true;
  const GemmPlan plan = plan_tensor(g, GemmKernel::mma, TileSize::small, machine);
  const double item = double(g.M) * g.N * g.K, enough = g.in == DType::f32 ? kPackProductsTf32 : kPackProducts;
  return plan.workspace_bytes == 0 || (item >= kPackItem && item * g.batch() >= enough);
}

}  // namespace myops
