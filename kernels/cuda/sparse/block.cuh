// What the threads of one block do together: sums over the threads before.
#pragma once
#include "pattern.cuh"

namespace myops {

struct BlockSums {
  int64_t warp[kWarpSize];
};

// The sum of x over the threads before this one; total: over all. The barriers stand so that calls may follow each
// other; all threads of the block have to come, whole warps of them.
__device__ __forceinline__ int64_t sum_of_threads_before(int64_t x, int64_t& total, BlockSums& shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  int64_t sum = x;
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int64_t before = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += before;
  }
  __syncthreads();
  if (lane == kWarpSize - 1) shared_store(&shared.warp[warp], sum);
  __syncthreads();
  int64_t before = sum - x;
  total = 0;
  for (int w = 0; w < warps; ++w) {
    const int64_t of_warp = shared_load(&shared.warp[w]);
    if (w < warp) before += of_warp;
    total += of_warp;
  }
  return before;
}

}  // namespace myops
