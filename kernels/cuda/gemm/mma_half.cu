// mma_tile.cuh for bfloat16 and float16.
#include "mma_tile.cuh"

namespace myops {

cudaError_t launch_mma_half(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  return g.in == DType::bf16 ? launch_mma_type<DType::bf16>(g, plan, stream)
                             : launch_mma_type<DType::f16>(g, plan, stream);
}

}  // namespace myops
