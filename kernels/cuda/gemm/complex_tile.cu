// tile.cuh for complex64 and complex128.
#include "tile.cuh"

namespace myops {

cudaError_t launch_complex_tile(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream) {
  switch (problem.in) {
    case DType::c64: return launch_tile<DType::c64>(problem, plan, stream);
    case DType::c128: return launch_tile<DType::c128>(problem, plan, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
