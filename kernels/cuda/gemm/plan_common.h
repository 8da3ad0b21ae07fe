// What every family of kernels has of a plan: the struct, views as planning sees them, the order of tiles. Plain C++.
#pragma once
#include "../../matrix_view.h"

namespace myops {

// What a family makes of each, its plan says. pingpong: of wgmma alone, its consumers multiply and end tiles in turn.
enum class TileSize : int8_t { small, large, narrow, medium, pingpong };

constexpr int64_t kMaxBlocks = 2147483647;       // of grid.x
constexpr int64_t kMaxDepth = int64_t(1) << 33;  // K, whose steps a kernel counts in 32 bits
constexpr int kRasterRows = 8;                   // tile rows that share the columns of B in the L2 cache; guess

enum class GemmKernel : int8_t { tile, skinny, tiny, mma, wgmma, limb };

// What a plan depends on beside the problem.
struct Machine {
  int multiprocessors = 1;
  int capability = 80;  // 90: Hopper
};

struct GemmPlan {
  GemmKernel kernel = GemmKernel::tile;
  TileSize size = TileSize::small;
  bool transpose = false;                       // compute D^T = B^T A^T; what follows is of the transposed problem
  bool a_along_k = true;                        // neighbouring threads load neighbours along K (else along M)
  bool b_along_k = false;                       // the same for B (else along N)
  bool a_packed = false, b_packed = false;      // 16 bytes at once, along that direction
  bool early = false;                           // skinny, mma: launch_kernel_early
  int64_t tiles_m = 0, tiles_n = 0, tiles = 0;  // tiles: of the whole batch
  int64_t blocks = 0;
  int items = 1;  // tiny: of a tile
  // skinny
  int lanes_k = 0, warps_k = 0;  // how many lanes of a warp and warps of a block share K
  int64_t splits = 1, split_k = 0;
  int warp_columns = 0, stages = 0;  // of 16-bit floats
  // tile: nothing but alpha, beta and an aligned C of the same dtype comes between the sums and 16 bytes of D
  bool plain_rows = false;
  // wgmma: whole tiles of D (and C) move by TMA; else rows are such that 4 neighbours are aligned
  bool stores_tiles = false, packed_rows = false;
  // mma, wgmma: bytes of the workspace that packed operands take, A first; 0: it is taken as it is
  int64_t a_pack_bytes = 0, b_pack_bytes = 0;
  int64_t workspace_bytes = 0;
};

// Whether tensor cores multiply operands of this dtype, for which products of floats have one order of sums there.
inline bool has_tensor_floats(const Gemm& g) {
  return g.in == DType::bf16 || g.in == DType::f16 || (g.in == DType::f32 && g.tf32);
}

MYOPS_HOST_DEVICE constexpr int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether every group of `bytes` neighbours along the unit stride is one aligned access: rows of a view that runs along
// its columns, columns of one that runs along its rows.
inline bool is_packed(const Gemm& g, const MatrixView& v, bool along_columns, int bytes) {
  const int64_t elements = bytes / element_size(g.in);
  const int64_t unit = along_columns ? v.col_stride : v.row_stride, other = along_columns ? v.row_stride : v.col_stride;
  bool aligned = unit == 1 && other % elements == 0 && reinterpret_cast<uintptr_t>(v.data) % bytes == 0;
  for (int i = 0; i < g.batch_dims; ++i) aligned &= v.batch_stride[i] % elements == 0;
  return aligned;
}

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

// Whether D runs down its columns, so that its transpose is stored along the unit stride.
inline bool runs_down(const Gemm& g) { return g.M > 1 && g.D.row_stride == 1 && g.D.col_stride != 1; }

// Cuts D into tiles of m x n, a block each as far as a grid has them.
inline void cut_into_tiles(GemmPlan& plan, const Gemm& g, int64_t m, int64_t n, int64_t max_blocks = kMaxBlocks) {
  plan.tiles_m = ceil_divide(g.M, m);
  plan.tiles_n = ceil_divide(g.N, n);
  plan.tiles = plan.tiles_m * plan.tiles_n * g.batch();
  plan.blocks = plan.tiles < max_blocks ? plan.tiles : max_blocks;
}

// Whether neighbouring threads should take neighbours along K rather than along the other dimension of an operand.
inline bool loads_along_k(int64_t k_stride, int64_t k_size, int64_t other_stride, int64_t other_size) {
  if (k_size == 1 || other_stride == 1) return other_size == 1 && k_size != 1;
  if (other_size == 1 || k_stride == 1) return true;
  const int64_t k = k_stride < 0 ? -k_stride : k_stride, other = other_stride < 0 ? -other_stride : other_stride;
  return k < other;
}

struct TileIndex {
  int64_t item, m, n;  // batch item, tile row, tile column
};

// Walks kRasterRows tile rows column by column, then the next rows, then the next item. Int: of the divisions.
template <class Int = int64_t>
MYOPS_HOST_DEVICE inline TileIndex tile_at(Int index, Int tiles_m, Int tiles_n) {
  const Int item = index / (tiles_m * tiles_n), in_item = index - item * tiles_m * tiles_n;
  const Int first_row = in_item / tiles_n / kRasterRows * kRasterRows;  // kRasterRows * tiles_n may not fit an Int
  const Int rows = tiles_m - first_row < kRasterRows ? tiles_m - first_row : kRasterRows;
  const Int in_group = in_item - first_row * tiles_n, column = in_group / rows;
  return {static_cast<int64_t>(item), static_cast<int64_t>(first_row + in_group - column * rows),
          static_cast<int64_t>(column)};
}

}  // namespace myops
