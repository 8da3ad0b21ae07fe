// skinny.cuh for float32 and float64.
#include "skinny.cuh"

namespace myops {

cudaError_t launch_skinny_float(const Gemm& g, const GemmPlan& plan, void* workspace, cudaStream_t stream) {
  return g.in == DType::f32 ? launch_skinny_type<DType::f32>(g, plan, workspace, stream)
                            : launch_skinny_type<DType::f64>(g, plan, workspace, stream);
}

}  // namespace myops
