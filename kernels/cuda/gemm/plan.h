// How a product is cut into tiles: a pure function of the problem and the number of multiprocessors, plain C++.
//
// Not here: the kernel (tile.cuh), the launch (gemm.cu).
//
//   D (M x N) is cut into tiles_m x tiles_n tiles per batch item. A block computes one tile at a time over the whole of
//   K, in ascending order, so a result has the same bits whatever the tile, the batch and the other rows. There is no
//   split of K and no atomic.
//
// Tiles of all items are numbered in one 64-bit index (tile_at), so that neither the batch nor a side is bound by the
// 65535 of grid.y and grid.z; blocks walk that index in steps of the grid.
#pragma once
#include "../../matrix_view.h"

#if defined(__CUDACC__) || defined(MYOPS_CUDA_EMULATION)
#define MYOPS_HOST_DEVICE __host__ __device__
#else
#define MYOPS_HOST_DEVICE
#endif

namespace myops {

enum class TileSize : int8_t { small, large };

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

constexpr int64_t kMaxBlocks = 2147483647;  // of grid.x
constexpr int kRasterRows = 8;              // tile rows that share the columns of B in the L2 cache; guess

struct GemmPlan {
  TileSize size = TileSize::small;
  bool transpose = false;                       // compute D^T = B^T A^T, so that stores run along the unit stride of D
  bool a_along_k = true;                        // neighbouring threads load neighbours along K (else along M)
  bool b_along_k = false;                       // the same for B (else along N)
  int64_t tiles_m = 0, tiles_n = 0, tiles = 0;  // of the transposed problem where transpose; tiles: of the whole batch
  int64_t blocks = 0;
};

inline void swap_matrix_dims(MatrixView& v) {
  const int64_t stride = v.row_stride;
  v.row_stride = v.col_stride;
  v.col_stride = stride;
}

// The problem D^T = alpha * B^T A^T + beta * C^T.
inline Gemm transposed(const Gemm& g) {
  Gemm t = g;
  t.M = g.N, t.N = g.M;
  t.A = g.B, t.B = g.A;
  for (MatrixView* v : {&t.A, &t.B, &t.C, &t.D}) swap_matrix_dims(*v);
  return t;
}

// Whether neighbouring threads should take neighbours along K rather than along the other dimension of an operand.
inline bool loads_along_k(int64_t k_stride, int64_t k_size, int64_t other_stride, int64_t other_size) {
  if (k_size == 1 || other_stride == 1) return other_size == 1 && k_size != 1;
  if (other_size == 1 || k_stride == 1) return true;
  const int64_t k = k_stride < 0 ? -k_stride : k_stride, other = other_stride < 0 ? -other_stride : other_stride;
  return k < other;
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

inline GemmPlan plan_gemm(const Gemm& problem, int multiprocessors) {
  const GemmPlan small = plan_with_tile(problem, TileSize::small);
  const GemmPlan large = plan_with_tile(problem, TileSize::large);
  return plan_cost(problem, large, multiprocessors) < plan_cost(problem, small, multiprocessors) ? large : small;
}

struct TileIndex {
  int64_t item, m, n;  // batch item, tile row, tile column
};

// Walks kRasterRows tile rows column by column, then the next rows, then the next item.
MYOPS_HOST_DEVICE inline TileIndex tile_at(int64_t index, int64_t tiles_m, int64_t tiles_n) {
  TileIndex tile;
  tile.item = index / (tiles_m * tiles_n);
  const int64_t in_item = index - tile.item * tiles_m * tiles_n;
  const int64_t first_row = in_item / (kRasterRows * tiles_n) * kRasterRows;
  const int64_t rows = tiles_m - first_row < kRasterRows ? tiles_m - first_row : kRasterRows;
  const int64_t in_group = in_item - first_row * tiles_n;
  tile.n = in_group / rows;
  tile.m = first_row + in_group - tile.n * rows;
  return tile;
}

}  // namespace myops
