// Plans of tile.cuh.
#pragma once
#include "plan_common.h"

namespace myops {

// A block computes m x n results in steps of k; each thread owns thread_m x thread_n of them. A multiprocessor has the
// registers for `blocks` at once. Steps are copied to a ring of `stages`.
struct TileShape {
  int m, n, k, thread_m, thread_n, blocks, stages;

  constexpr int threads() const { return m / thread_m * (n / thread_n); }
};

constexpr int kTileUnit = 8;  // K is padded with zeros to a multiple of this in every tile, for the same sums

// The tiles that a dtype has. Those of less than 4 bytes come here only where they are small or not aligned.
constexpr bool has_tile(DType in, TileSize size) {
  switch (size) {
    case TileSize::small:
    case TileSize::large: return true;
    case TileSize::narrow: return in == DType::f32 || in == DType::c64;
    case TileSize::medium: return in == DType::f32;
    default: return false;
  }
}

// A ring holds what arrives in the latency of memory, 1000 cycles or more. A thread reads thread_m + thread_n values
// from shared memory for thread_m * thread_n multiply-adds: 4 x 2 values of 4 bytes keep shared memory busier than the
// multiply-add units, but spread a small product over all four schedulers of a multiprocessor.
constexpr TileShape tile_shape(DType in, TileSize size) {
  const int width = element_size(in);
  const bool small = size == TileSize::small;
  if (in == DType::c128) return small ? TileShape{32, 32, 8, 4, 2, 3, 4} : TileShape{64, 32, 8, 4, 4, 3, 3};
  if (in == DType::c64) {
    if (small) return {32, 32, 16, 4, 2, 4, 4};
    return size == TileSize::narrow ? TileShape{64, 32, 8, 4, 4, 4, 4} : TileShape{64, 64, 8, 4, 4, 2, 4};
  }
  if (width == 8) return small ? TileShape{32, 32, 16, 4, 2, 4, 4} : TileShape{64, 64, 8, 8, 4, 3, 4};
  if (width < 4) return small ? TileShape{32, 32, 32, 4, 2, 4, 2} : TileShape{128, 128, 8, 8, 8, 1, 2};
  switch (size) {
    case TileSize::small: return {32, 32, 32, 4, 2, 4, 4};
    case TileSize::narrow: return {64, 32, 32, 4, 4, 4, 3};
    case TileSize::medium: return {64, 64, 16, 8, 4, 4, 4};
    default: return {128, 128, 32, 8, 8, 2, 2};
  }
}

// Whether rows of D, and of C where there is one, are moved 16 bytes of sums at a time with no question asked.
inline bool has_plain_rows(const Gemm& g) {
  const int neighbours = g.in == DType::c128 ? 1 : element_size(g.in) == 8 ? 2 : 4;
  const int bytes = neighbours * element_size(g.in);
  const bool d = g.out == g.in && !g.D.conj && g.N % neighbours == 0 && is_packed(g, g.D, true, bytes);
  const bool c = g.C.data == nullptr || (g.c_type == g.in && !g.C.conj && is_packed(g, g.C, true, bytes));
  return g.activation == Activation::none && d && c;
}

// The plan with a given tile.
inline GemmPlan plan_with_tile(const Gemm& problem, TileSize size, int64_t max_blocks = kMaxBlocks) {
  GemmPlan plan;
  plan.size = size;
  // A complex product is never transposed: its imaginary part is summed in the order of the operands, and the bits of a
  // row would depend on the strides of D.
  plan.transpose = !is_complex(problem.in) && runs_down(problem);
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  plan.a_along_k = loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M);
  plan.b_along_k = loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
  const bool packs = element_size(g.in) >= 4;  // along the lines; what runs along K is transposed on its way
  plan.a_packed = packs && !plan.a_along_k && is_packed(g, g.A, false, 16);
  plan.b_packed = packs && !plan.b_along_k && is_packed(g, g.B, true, 16);
  plan.plain_rows = has_plain_rows(g);
  const TileShape shape = tile_shape(g.in, size);
  cut_into_tiles(plan, g, shape.m, shape.n, max_blocks);
  return plan;
}

// The time of the busiest multiprocessor, in results: a block alone does not fill it, and a tile with few results to a
// thread waits for shared memory. Guesses but for the order.
inline double plan_cost(const Gemm& problem, const GemmPlan& plan, int multiprocessors) {
  const TileShape shape = tile_shape(problem.in, plan.size);
  const auto tiles = static_cast<double>(ceil_divide(plan.tiles, multiprocessors));
  const auto rounds = static_cast<double>(ceil_divide(ceil_divide(plan.tiles, multiprocessors), shape.blocks));
  const bool wide = element_size(problem.in) > 4;
  const double rate = plan.size == TileSize::small    ? (wide ? 0.7 : 0.57)
                      : plan.size == TileSize::narrow ? 0.74
                      : plan.size == TileSize::medium ? 0.8
                                                      : 0.85;
  return (tiles > 1.25 * rounds ? tiles : 1.25 * rounds) * shape.m * shape.n / rate;
}

inline GemmPlan plan_tile(const Gemm& problem, const Machine& machine) {
  GemmPlan best;
  double least = 0;
  for (const TileSize size : {TileSize::small, TileSize::narrow, TileSize::medium, TileSize::large}) {
    if (!has_tile(problem.in, size)) continue;
    const GemmPlan plan = plan_with_tile(problem, size);
    const double cost = plan_cost(problem, plan, machine.multiprocessors);
    if (size != TileSize::small && cost >= least) continue;
    best = plan, least = cost;
  }
  return best;
}

}  // namespace myops
