// sddmm.cuh for float64, complex64 and complex128.
#include "sddmm.cuh"

namespace myops {

cudaError_t launch_sddmm_wide(const Sddmm& p, const SparseSession& session) {
  switch (p.type) {
    case DType::f64: return launch_sampled<DType::f64>(p, session);
    case DType::c64: return launch_sampled<DType::c64>(p, session);
    case DType::c128: return launch_sampled<DType::c128>(p, session);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
