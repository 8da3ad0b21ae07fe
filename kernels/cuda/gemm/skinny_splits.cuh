// The second pass of a product whose K is split over blocks: adds up the workspace, [split][item][row][column], in
// ascending order of the splits.
#pragma once
#include "../element.cuh"
#include "epilogue.cuh"
#include "gemm.h"

namespace myops {

constexpr int kSkinnyThreads = 32 * kSkinnyWarps;

template <DType kIn>
__global__ void __launch_bounds__(kSkinnyThreads)
    combine_splits(const __grid_constant__ Gemm g, const int64_t splits, const void* workspace) {
  using Acc = typename Element<kIn>::Acc;
  const int64_t quads = (g.N + 3) / 4, count = g.batch() * g.M * quads, step = int64_t(gridDim.x) * kSkinnyThreads;
#pragma unroll 1
  for (int64_t i = int64_t(blockIdx.x) * kSkinnyThreads + threadIdx.x; i < count; i += step) {
    const int64_t line = i / quads, col = i % quads * 4;  // line: row of an item, counted through the batch
    const Acc* partial = static_cast<const Acc*>(workspace) + line * g.N + col;
    Acc sum[4] = {};
    for (int64_t s = 0; s < splits; ++s, partial += g.batch() * g.M * g.N) {
      Acc part[4] = {};
      load_row(part, partial, 1, g.N - col, false);
#pragma unroll
      for (int v = 0; v < 4; ++v) sum[v] += part[v];
    }
    Epilogue<kIn>(g, line / g.M).store(sum, line % g.M, col);
  }
}

template <DType kIn>
cudaError_t launch_combine(const Gemm& g, const GemmPlan& plan, const void* workspace, cudaStream_t stream) {
  const int64_t blocks = ceil_divide(g.batch() * g.M * ceil_divide(g.N, 4), kSkinnyThreads);
  return launch_kernel(&combine_splits<kIn>, dim3(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks)),
                       dim3(kSkinnyThreads), 0, stream, g, plan.splits, workspace);
}

}  // namespace myops
