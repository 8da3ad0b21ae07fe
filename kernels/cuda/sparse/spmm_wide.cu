// spmm.cuh for float64, complex64 and complex128.
#include "spmm.cuh"

namespace myops {

cudaError_t launch_spmm_wide(const Spmm& p, const SparseSession& session) {
  switch (p.type) {
    case DType::f64: return launch_sum<DType::f64>(p, session);
    case DType::c64: return launch_sum<DType::c64>(p, session);
    case DType::c128: return launch_sum<DType::c128>(p, session);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
