// tile.cuh for float32, float64, bfloat16 and float16. Exact: no TF32, float32 sums for 16-bit floats.
#include "tile.cuh"

namespace myops {

cudaError_t launch_float_tile(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream) {
  switch (problem.in) {
    case DType::f32: return launch_tile<DType::f32>(problem, plan, stream);
    case DType::f64: return launch_tile<DType::f64>(problem, plan, stream);
    case DType::bf16: return launch_tile<DType::bf16>(problem, plan, stream);
    case DType::f16: return launch_tile<DType::f16>(problem, plan, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
