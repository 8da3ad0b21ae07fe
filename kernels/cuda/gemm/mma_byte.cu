// mma_tile.cuh for int8 and uint8.
#include "mma_tile.cuh"

namespace myops {

cudaError_t launch_mma_byte(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  return g.in == DType::i8 ? launch_mma_type<DType::i8>(g, plan, stream) : launch_mma_type<DType::u8>(g, plan, stream);
}

}  // namespace myops
