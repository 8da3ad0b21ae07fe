// Plans a product and hands it to the kernel family of its dtype.
#include "gemm.h"

namespace myops {

cudaError_t launch_gemm(const Gemm& problem, cudaStream_t stream) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  return launch_gemm_planned(problem, plan_gemm(problem, multiprocessors), stream);
}

cudaError_t launch_gemm_planned(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream) {
  if (plan.tiles == 0) return cudaSuccess;
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  if (is_complex(g.in)) return launch_complex_tile(g, plan, stream);
  if (is_floating(g.in)) return launch_float_tile(g, plan, stream);
  return launch_integer_tile(g, plan, stream);
}

}  // namespace myops
