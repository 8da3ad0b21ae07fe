// sddmm.cuh for the integers; modular, so signs do not matter.
#include "sddmm.cuh"

namespace myops {

cudaError_t launch_sddmm_integer(const Sddmm& p, const SparseSession& session) {
  switch (p.type) {
    case DType::i8:
    case DType::u8: return launch_sampled<DType::u8>(p, session);
    case DType::i16: return launch_sampled<DType::i16>(p, session);
    case DType::i32: return launch_sampled<DType::i32>(p, session);
    case DType::i64: return launch_sampled<DType::i64>(p, session);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
