// spmm.cuh for the integers: modular sums in 32 bits, in 64 for int64.
#include "spmm.cuh"

namespace myops {

cudaError_t launch_spmm_integer(const Spmm& p, const SparseSession& session) {
  switch (p.type) {
    case DType::i8: return launch_sum<DType::i8>(p, session);
    case DType::u8: return launch_sum<DType::u8>(p, session);
    case DType::i16: return launch_sum<DType::i16>(p, session);
    case DType::i32: return launch_sum<DType::i32>(p, session);
    case DType::i64: return launch_sum<DType::i64>(p, session);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
