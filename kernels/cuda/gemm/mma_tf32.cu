// mma_tile.cuh for float32 that may be rounded to TF32.
#include "mma_tile.cuh"

namespace myops {

cudaError_t launch_mma_tf32(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  return launch_mma_type<DType::f32>(g, plan, stream);
}

}  // namespace myops
