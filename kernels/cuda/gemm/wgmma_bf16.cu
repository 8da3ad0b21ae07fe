// wgmma_tile.cuh for bfloat16.
#include "wgmma_tile.cuh"

namespace myops {

cudaError_t launch_wgmma_bf16(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  return launch_wgmma_type<DType::bf16>(g, plan, stream);
}

}  // namespace myops
