// tiny.cuh for float32, float64, bfloat16 and float16.
#include "tiny.cuh"

namespace myops {

cudaError_t launch_tiny(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  switch (g.in) {
    case DType::f32: return launch_tiny_type<DType::f32>(g, plan, stream);
    case DType::f64: return launch_tiny_type<DType::f64>(g, plan, stream);
    case DType::bf16: return launch_tiny_type<DType::bf16>(g, plan, stream);
    case DType::f16: return launch_tiny_type<DType::f16>(g, plan, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
