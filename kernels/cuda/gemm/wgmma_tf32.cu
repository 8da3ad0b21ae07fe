// wgmma_tile.cuh for float32 that may be rounded to TF32.
#include "wgmma_tile.cuh"

namespace myops {

cudaError_t launch_wgmma_tf32(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  return launch_wgmma_type<DType::f32>(g, plan, stream);
}

}  // namespace myops
