// limb_tile.cuh for the integers.
#include "limb_tile.cuh"

namespace myops {

cudaError_t launch_limb(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  switch (g.in) {
    case DType::i8: return launch_limb_type<DType::i8>(g, plan, stream);
    case DType::u8: return launch_limb_type<DType::u8>(g, plan, stream);
    case DType::i16: return launch_limb_type<DType::i16>(g, plan, stream);
    case DType::i32: return launch_limb_type<DType::i32>(g, plan, stream);
    case DType::i64: return launch_limb_type<DType::i64>(g, plan, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
