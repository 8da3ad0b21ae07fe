// Plans of limb_tile.cuh and limb_wgmma.cuh, and of the planes of limbs that the latter takes (limb_pack.cu).
#pragma once
#include "plan_tensor.h"

namespace myops {

// A block of warps_m x warps_n warps computes m x n results in steps of `depth` values of K.
struct LimbShape {
  int m, n, depth, warps_m, warps_n;

  constexpr int threads() const { return 32 * warps_m * warps_n; }
};

// A warp has sums of its results for every byte of an element: of 32 x 32 of int32 in 128 registers. int64
// has one size.
constexpr LimbShape limb_shape(DType in, TileSize size) {
  const int bytes = element_size(in);
  if (bytes == 8) return {32, 32, 64, 2, 2};
  return size == TileSize::large ? LimbShape{64, 64, 128 / bytes, 2, 2}
                                 : LimbShape{64, 32, bytes == 4 ? 64 : 128, 2, 2};
}

inline GemmPlan plan_limb(const Gemm& problem, TileSize size) {
  GemmPlan plan;
  plan.kernel = GemmKernel::limb;
  plan.size = size;
  plan.transpose = runs_down(problem);
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  plan.a_along_k = loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M);
  plan.b_along_k = loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
  plan.a_packed = plan.a_along_k && is_packed(g, g.A, true, 16);
  plan.b_packed = plan.b_along_k && is_packed(g, g.B, false, 16);
  const LimbShape shape = limb_shape(g.in, size);
  cut_into_tiles(plan, g, shape.m, shape.n);
  return plan;
}

// An operand seen as lines (rows of A, columns of B) by K, and the planes of its limbs: bytes along K, `plane` bytes
// apart, in each item; behind them, of each tile a byte from each warp. Rows of `from` and `to` are lines. A batch
// dimension of stride 0 has one item here.
constexpr int kLimbTileLines = 32, kLimbTileK = 128, kLimbPackWarps = 8;

struct LimbPack {
  MatrixView from, to;
  bool along_k = true, vector = false;  // vector: four neighbours along K are one aligned access
  int64_t lines = 0, K = 0, plane = 0, tiles = 0;
  int batch_dims = 0;
  int64_t batch_size[kMaxBatchDims] = {};
  int64_t bytes = 0;
};

inline LimbPack limb_pack(const Gemm& g, bool is_a) {
  LimbPack p;
  const MatrixView& v = is_a ? g.A : g.B;
  p.from = v;
  if (!is_a) swap_matrix_dims(p.from);
  p.to = p.from;
  p.lines = is_a ? g.M : g.N, p.K = g.K;
  p.along_k = loads_along_k(p.from.col_stride, p.K, p.from.row_stride, p.lines);
  p.vector = is_packed(g, p.from, true, 4 * element_size(g.in));
  const int64_t pitch = ceil_divide(p.K, 16) * 16;
  p.plane = pitch * p.lines;
  p.to.row_stride = pitch, p.to.col_stride = 1;
  const int64_t item_tiles = ceil_divide(p.lines, kLimbTileLines) * ceil_divide(p.K, kLimbTileK);
  int64_t step = p.plane * element_size(g.in) + ceil_divide(item_tiles * kLimbPackWarps, 16) * 16, items = 1;
  p.batch_dims = g.batch_dims;
  for (int i = g.batch_dims - 1; i >= 0; --i) {
    p.batch_size[i] = v.batch_stride[i] == 0 ? 1 : g.batch_size[i];
    p.to.batch_stride[i] = v.batch_stride[i] == 0 ? 0 : step;
    step *= p.batch_size[i];
    items *= p.batch_size[i];
  }
  p.tiles = item_tiles * items;
  p.bytes = ceil_divide(step, 256) * 256;
  return p;
}

// Whether an operand can be read by TMA as it is: bytes along K, and rows that are not one row repeated.
inline bool is_limb_plane(const Gemm& g, const MatrixView& v, int64_t lines, bool is_a) {
  const int64_t stride = is_a ? v.row_stride : v.col_stride;
  return element_size(g.in) == 1 && is_packed(g, v, is_a, 16) && (lines == 1 || stride != 0);
}

inline GemmPlan plan_limb_wgmma(const Gemm& problem, TileSize size, int multiprocessors) {
  GemmPlan plan;
  plan.kernel = GemmKernel::wgmma;
  plan.size = size;
  plan.transpose = runs_down(problem);
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  plan.a_along_k = plan.b_along_k = true;
  plan.a_packed = is_limb_plane(g, g.A, g.M, true), plan.b_packed = is_limb_plane(g, g.B, g.N, false);
  if (!plan.a_packed) plan.a_pack_bytes = limb_pack(g, true).bytes;
  if (!plan.b_packed) plan.b_pack_bytes = limb_pack(g, false).bytes;
  plan.workspace_bytes = plan.a_pack_bytes + plan.b_pack_bytes;
  plan_wgmma_tiles(plan, g, multiprocessors);
  return plan;
}

// Planes of limbs are a batch dimension of the tensor map. The sums of int64 leave registers for 128 columns at most.
inline bool takes_limb_wgmma(const Gemm& g, TileSize size, const Machine& machine) {
  constexpr int64_t kMostCoordinates = int64_t(1) << 30;
  return machine.capability == 90 && is_integral(g.in) && g.in != DType::boolean &&
         g.batch_dims + (element_size(g.in) > 1 ? 1 : 0) <= kWgmmaBatchDims && g.M < kMostCoordinates &&
         g.N < kMostCoordinates && g.K < kMostCoordinates / 64 && numbers_wgmma_tiles(g) && has_wgmma_shape(size) &&
         size != TileSize::pingpong && (g.in != DType::i64 || size != TileSize::large);
}

// Below these sides most of a tile is empty.
constexpr int64_t kLimbSide = 17, kLimbDepth = 32;

inline bool takes_limb(const Gemm& g) {
  return is_integral(g.in) && g.in != DType::boolean && g.M >= kLimbSide && g.N >= kLimbSide && g.K >= kLimbDepth;
}

// Rounds of tiles that the busiest multiprocessor computes, each with its products of bytes and its end, and what
// packing takes. Times in microseconds: guesses that name the fastest kernel, or one within a tenth of it, wherever an
// H100 was asked (int8 to int64, 512^3 to 2048^3).
inline GemmPlan plan_integer(const Gemm& problem, const Machine& machine) {
  struct Candidate {
    GemmKernel kernel;
    TileSize size;
    double step, end;  // step: 128 values of K, one product of bytes
  };
  constexpr Candidate kCandidates[] = {
      {GemmKernel::wgmma, TileSize::large, 0.71, 2.0},  {GemmKernel::wgmma, TileSize::small, 0.39, 1.3},
      {GemmKernel::wgmma, TileSize::narrow, 0.28, 1.0}, {GemmKernel::mma, TileSize::large, 0.80, 1.0},
      {GemmKernel::mma, TileSize::small, 0.40, 0.8},    {GemmKernel::limb, TileSize::large, 0.30, 0.8},
      {GemmKernel::limb, TileSize::small, 0.17, 0.6}};
  constexpr double kPackLaunch = 2.5, kPackBytesEach = 2e6;  // of the launch, and what moves in a microsecond
  const int bytes = element_size(problem.in);
  GemmPlan best;
  double best_cost = 0;
  for (const Candidate& c : kCandidates) {
    const bool wgmma = c.kernel == GemmKernel::wgmma;
    if (c.kernel == GemmKernel::limb && bytes == 8 && c.size == TileSize::large) continue;
    const int cluster = wgmma ? wgmma_shape(c.size).cluster() : 1;
    if (cluster > machine.multiprocessors || (wgmma && !takes_limb_wgmma(problem, c.size, machine))) continue;
    if (c.kernel == GemmKernel::mma && (bytes > 1 || machine.capability == 90)) continue;
    const GemmPlan plan = wgmma                         ? plan_limb_wgmma(problem, c.size, machine.multiprocessors)
                          : c.kernel == GemmKernel::mma ? plan_tensor(problem, c.kernel, c.size, machine)
                                                        : plan_limb(problem, c.size);
    const double rounds = double(ceil_divide(plan.tiles, machine.multiprocessors / cluster));
    // Where bytes are not split, loading them element by element is what limb spends its time on; int64 has tiles of
    // half the small one.
    const double weight = c.kernel != GemmKernel::limb ? 1 : bytes == 1 ? 2.5 : bytes == 2 ? 1.5 : bytes == 8 ? 0.5 : 1;
    const double steps = double(ceil_divide(problem.K, 128)) * (bytes * (bytes + 1) / 2);
    const double pack = plan.workspace_bytes == 0 ? 0 : kPackLaunch + 2 * double(plan.workspace_bytes) / kPackBytesEach;
    const double cost = rounds * (steps * c.step * weight + c.end) + pack;
    if (best.tiles == 0 || cost < best_cost) best = plan, best_cost = cost;
  }
  return best;
}

}  // namespace myops
