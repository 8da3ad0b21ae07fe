// spmm.cuh for float32, bfloat16 and float16, which accumulate in float32.
#include "spmm.cuh"

namespace myops {

cudaError_t launch_spmm_float(const Spmm& p, const SparseSession& session) {
  switch (p.type) {
    case DType::f32: return launch_sum<DType::f32>(p, session);
    case DType::bf16: return launch_sum<DType::bf16>(p, session);
    case DType::f16: return launch_sum<DType::f16>(p, session);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
