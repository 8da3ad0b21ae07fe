// The end of a skinny product, and the second pass of one whose K is split over blocks.
//
// The workspace is [split][item][row][column].
#pragma once
#include "../element.cuh"
#include "epilogue.cuh"
#include "gemm.h"

namespace myops {

constexpr int kSkinnyThreads = 32 * kSkinnyWarps;

// Four neighbours of a row, their sums over the K of one split: to the workspace, or the end of the product. Most calls
// ask for nothing but alpha, which takes a twentieth of the epilogue's instructions, all of them cold.
template <DType kIn, class Acc>
__device__ __forceinline__ void store_skinny(Acc (&sum)[4], const Gemm& g, const GemmPlan& plan, int64_t split,
                                             int64_t item, int64_t d_base, int row, int64_t col, void* workspace) {
  using In = typename Element<kIn>::Type;
  const bool plain = g.C.data == nullptr && g.activation == Activation::none && g.out == kIn && g.D.col_stride == 1;
  if (row >= g.M || col >= g.N) return;
  if (plan.splits > 1) {
    Acc* parts = static_cast<Acc*>(workspace) + (split * g.batch() + item) * g.M * g.N;
    store_row(sum, parts + row * g.N + col, 1, g.N - col, false);
  } else if (plain) {
#pragma unroll
    for (int v = 0; v < 4; ++v) sum[v] = scale(static_cast<Acc>(g.alpha), sum[v]);
    store_row(sum, static_cast<In*>(g.D.data) + d_base + row * g.D.row_stride + col, 1, g.N - col, false);
  } else {
    Epilogue<kIn>(g, item).store(sum, row, col);
  }
}

// Adds up the workspace in ascending order of the splits.
template <DType kIn>
__global__ void __launch_bounds__(kSkinnyThreads)
    combine_splits(const __grid_constant__ Gemm g, const int64_t splits, const void* workspace) {
  using Acc = typename Element<kIn>::Acc;
  wait_for_previous_kernel();
  let_next_kernel_begin();
  constexpr int kAtOnce = 8;  // splits whose sums are under way together: each alone waits for memory
  const int64_t quads = (g.N + 3) / 4, count = g.batch() * g.M * quads, step = int64_t(gridDim.x) * kSkinnyThreads;
  const int64_t of_split = g.batch() * g.M * g.N;
#pragma unroll 1
  for (int64_t i = int64_t(blockIdx.x) * kSkinnyThreads + threadIdx.x; i < count; i += step) {
    const int64_t line = i / quads, col = i % quads * 4;  // line: row of an item, counted through the batch
    const Acc* partial = static_cast<const Acc*>(workspace) + line * g.N + col;
    Acc sum[4] = {};
#pragma unroll 1
    for (int64_t s = 0; s < splits; s += kAtOnce, partial += kAtOnce * of_split) {
      Acc parts[kAtOnce][4] = {};
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u)
        if (s + u < splits) load_row(parts[u], partial + u * of_split, 1, g.N - col, false);
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u)
#pragma unroll
        for (int v = 0; v < 4; ++v) sum[v] += parts[u][v];
    }
    Epilogue<kIn>(g, line / g.M).store(sum, line % g.M, col);
  }
}

template <DType kIn>
cudaError_t launch_combine(const Gemm& g, const GemmPlan& plan, const void* workspace, cudaStream_t stream) {
  const int64_t blocks = ceil_divide(g.batch() * g.M * ceil_divide(g.N, 4), kSkinnyThreads);
  return launch_kernel_early(plan.early, &combine_splits<kIn>,
                             dim3(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks)),
                             dim3(kSkinnyThreads), 0, stream, g, plan.splits, workspace);
}

}  // namespace myops
