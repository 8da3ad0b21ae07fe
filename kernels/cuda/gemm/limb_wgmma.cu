// limb_wgmma.cuh for the integers, and the planes of limbs that it takes.
#include "limb_wgmma.cuh"

namespace myops {

cudaError_t launch_limb_wgmma(const Gemm& problem, const GemmPlan& plan, void* workspace, cudaStream_t stream) {
  Gemm g = problem;
  LimbPack a, b;  // empty: the operand is taken as it is
  if (g.K > 0 && plan.a_pack_bytes > 0) {
    a = limb_pack(problem, true);
    a.to.data = workspace;
    g.A = a.to;
  }
  if (g.K > 0 && plan.b_pack_bytes > 0) {
    b = limb_pack(problem, false);
    b.to.data = static_cast<char*>(workspace) + plan.a_pack_bytes;
    g.B = b.to;
    swap_matrix_dims(g.B);
  }
  const cudaError_t error = launch_limb_pack(a, b, element_size(g.in), stream);
  if (error != cudaSuccess) return error;
  switch (g.in) {
    case DType::i8: return launch_limb_wgmma_type<DType::i8>(g, plan, a.plane, b.plane, stream);
    case DType::u8: return launch_limb_wgmma_type<DType::u8>(g, plan, a.plane, b.plane, stream);
    case DType::i16: return launch_limb_wgmma_type<DType::i16>(g, plan, a.plane, b.plane, stream);
    case DType::i32: return launch_limb_wgmma_type<DType::i32>(g, plan, a.plane, b.plane, stream);
    case DType::i64: return launch_limb_wgmma_type<DType::i64>(g, plan, a.plane, b.plane, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
