// wgmma_tile.cuh for float16.
#include "wgmma_tile.cuh"

namespace myops {

cudaError_t launch_wgmma_f16(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  return launch_wgmma_type<DType::f16>(g, plan, stream);
}

}  // namespace myops
