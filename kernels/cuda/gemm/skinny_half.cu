// skinny_mma.cuh for bfloat16 and float16.
#include "skinny_mma.cuh"

namespace myops {

cudaError_t launch_skinny_half(const Gemm& g, const GemmPlan& plan, void* workspace, cudaStream_t stream) {
  return g.in == DType::bf16 ? launch_skinny_mma<DType::bf16>(g, plan, workspace, stream)
                             : launch_skinny_mma<DType::f16>(g, plan, workspace, stream);
}

}  // namespace myops
