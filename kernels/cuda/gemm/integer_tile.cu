// tile.cuh for the integers: modular sums in 32 bits, in 64 for int64.
#include "tile.cuh"

namespace myops {

cudaError_t launch_integer_tile(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream) {
  switch (problem.in) {
    case DType::i8: return launch_tile<DType::i8>(problem, plan, stream);
    case DType::u8: return launch_tile<DType::u8>(problem, plan, stream);
    case DType::i16: return launch_tile<DType::i16>(problem, plan, stream);
    case DType::i32: return launch_tile<DType::i32>(problem, plan, stream);
    case DType::i64: return launch_tile<DType::i64>(problem, plan, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
