// sddmm.cuh for float32, bfloat16 and float16, which accumulate in float32.
#include "sddmm.cuh"

namespace myops {

cudaError_t launch_sddmm_float(const Sddmm& p, const SparseSession& session) {
  switch (p.type) {
    case DType::f32: return launch_sampled<DType::f32>(p, session);
    case DType::bf16: return launch_sampled<DType::bf16>(p, session);
    case DType::f16: return launch_sampled<DType::f16>(p, session);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
