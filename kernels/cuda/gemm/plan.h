// Which kernel computes a product, and how it is cut up: a pure function of the problem and the machine, plain C++.
//
// Not here: the plan of each family (plan_tile.h and its neighbours), the kernels (tile.cuh and its neighbours), the
// launch (gemm.cpp).
//
//   tile     D (M x N) is cut into tiles_m x tiles_n tiles per batch item. A block computes one tile at a time over the
//            whole of K, in ascending order. Any dtype, any stride.
//   skinny   One side of D is at most kSkinnyRows, so the product is a walk through the other operand, once. Lanes,
//            warps and blocks share K; their partial sums are added in a fixed order, over blocks by a second pass.
//   tiny     Thousands of matrices of side 32 at most: several to a block. The sums of tile, bit for bit.
//   limb     tile on tensor cores, for integers of any width, as products of their bytes. Any stride.
//   mma      tile on tensor cores, for 16-bit floats, 8-bit integers, and float32 where TF32 is allowed. An operand
//            that is not aligned to 16 bytes, or of other than 16 bits and not along K, is first packed into the
//            workspace.
//   wgmma    The same for floats and all integers on a Hopper, by its own instructions. Of integers it takes bytes
//            along K: wider ones, and others, are first cut into planes of bytes in the workspace.
//
// There is no atomic: equal calls give equal bits. Where the problem is batch_invariant, nothing that orders a sum
// depends on M, N, the batch or strides.
//
// Tiles of all items are numbered in one 64-bit index (tile_at), so that neither the batch nor a side is bound by the
// 65535 of grid.y and grid.z; blocks walk that index in steps of the grid (of tile, launches do).
#pragma once
#include <string>

#include "plan_limb.h"
#include "plan_skinny.h"
#include "plan_tensor.h"
#include "plan_tile.h"
#include "plan_tiny.h"

namespace myops {

inline GemmPlan plan_gemm(const Gemm& problem, const Machine& machine) {
  // Kernels of one dtype that sum in the same order: tile and tiny of float32 and float64; for floats of tensor cores
  // wgmma or mma, whichever the machine has.
  const bool one_order = problem.batch_invariant && has_tensor_floats(problem);
  if (takes_tiny(problem, machine) && !one_order) return plan_tiny(problem);
  if (takes_skinny(problem) && !problem.batch_invariant) return plan_skinny(problem, machine);
  if (takes_limb(problem)) return plan_integer(problem, machine);
  if (takes_tensor_cores(problem, machine)) return plan_tensor_cores(problem, machine);
  return plan_tile(problem, machine);
}

// A tensor map has fewer batch dimensions than a Gemm, and a batch-invariant product on tensor cores may not take
// another kernel for it: its outermost dimension has to be walked (outer_item).
inline bool walks_outer_batch(const Gemm& g, const Machine& machine) {
  return g.batch_invariant && machine.capability == 90 && has_tensor_floats(g) && g.batch_dims > kWgmmaBatchDims;
}

// The items of a batch that have index i in the outermost batch dimension.
inline Gemm outer_item(const Gemm& g, int64_t i) {
  Gemm item = g;
  --item.batch_dims;
  for (MatrixView* v : {&item.A, &item.B, &item.C, &item.D}) {
    const DType type = v == &item.C ? g.c_type : v == &item.D ? g.out : g.in;
    if (v->data != nullptr) v->data = static_cast<char*>(v->data) + i * v->batch_stride[0] * element_size(type);
    for (int d = 0; d < item.batch_dims; ++d) v->batch_stride[d] = v->batch_stride[d + 1];
  }
  if (g.preactivation != nullptr)  // laid out as D
    item.preactivation = static_cast<char*>(g.preactivation) + i * g.D.batch_stride[0] * element_size(g.out);
  for (int d = 0; d < item.batch_dims; ++d) item.batch_size[d] = g.batch_size[d + 1];
  return item;
}

// The plan in one line of key=value.
inline std::string describe(const GemmPlan& p) {
  constexpr const char* kKernels[] = {"tile", "skinny", "tiny", "mma", "wgmma", "limb"};
  std::string text = std::string("kernel=") + kKernels[static_cast<int>(p.kernel)];
  const auto add = [&text](const char* key, int64_t value) {
    text += std::string(" ") + key + "=" + std::to_string(value);
  };
  constexpr const char* kSizes[] = {"small", "large", "narrow", "medium", "pingpong"};
  text += std::string(" size=") + kSizes[static_cast<int>(p.size)];
  add("transpose", p.transpose);
  add("a_along_k", p.a_along_k);
  add("b_along_k", p.b_along_k);
  add("a_packed", p.a_packed);
  add("b_packed", p.b_packed);
  add("items", p.items);
  add("tiles_m", p.tiles_m);
  add("tiles_n", p.tiles_n);
  add("tiles", p.tiles);
  add("blocks", p.blocks);
  add("lanes_k", p.lanes_k);
  add("warps_k", p.warps_k);
  add("splits", p.splits);
  add("split_k", p.split_k);
  add("warp_columns", p.warp_columns);
  add("stages", p.stages);
  add("a_pack_bytes", p.a_pack_bytes);
  add("b_pack_bytes", p.b_pack_bytes);
  add("workspace_bytes", p.workspace_bytes);
  return text;
}

}  // namespace myops
