// Hands a planned product to the kernel family of its plan and dtype.
#include "gemm.h"

namespace myops {

cudaError_t query_machine(Machine* machine) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&machine->multiprocessors, cudaDevAttrMultiProcessorCount, device);
  return error == cudaSuccess ? query_capability(device, &machine->capability) : error;
}

namespace {

// Packs what the plan wants packed, and returns the problem with those operands.
cudaError_t pack_operands(Gemm* g, const GemmPlan& plan, void* workspace, cudaStream_t stream) {
  if (g->K == 0) return cudaSuccess;
  PackOperand operands[2];
  int count = 0;
  const auto add = [&](PackOperand p, MatrixView* view, int64_t offset, bool is_a) {
    p.to.data = static_cast<char*>(workspace) + offset;
    *view = p.to;
    if (!is_a) swap_matrix_dims(*view);
    operands[count++] = p;
  };
  if (plan.a_pack_bytes > 0) add(pack_a(*g, plan), &g->A, 0, true);
  if (plan.b_pack_bytes > 0) add(pack_b(*g, plan), &g->B, plan.a_pack_bytes, false);
  return launch_pack(operands, count, element_size(g->in), stream);
}

}  // namespace

cudaError_t launch_gemm(const Gemm& problem, const GemmPlan& plan, void* workspace, cudaStream_t stream) {
  if (plan.tiles == 0) return cudaSuccess;
  Gemm g = plan.transpose ? transposed(problem) : problem;
  switch (plan.kernel) {
    case GemmKernel::skinny:
      return element_size(g.in) == 2 ? launch_skinny_half(g, plan, workspace, stream)
                                     : launch_skinny_float(g, plan, workspace, stream);
    case GemmKernel::tiny: return launch_tiny(g, plan, stream);
    case GemmKernel::mma:
    case GemmKernel::wgmma: {
      if (plan.kernel == GemmKernel::wgmma && is_integral(g.in)) return launch_limb_wgmma(g, plan, workspace, stream);
      const cudaError_t error = pack_operands(&g, plan, workspace, stream);
      if (error != cudaSuccess) return error;
      if (plan.kernel == GemmKernel::wgmma)
        return g.in == DType::bf16  ? launch_wgmma_bf16(g, plan, stream)
               : g.in == DType::f16 ? launch_wgmma_f16(g, plan, stream)
                                    : launch_wgmma_tf32(g, plan, stream);
      return g.in == DType::f32  ? launch_mma_tf32(g, plan, stream)
             : is_floating(g.in) ? launch_mma_half(g, plan, stream)
                                 : launch_mma_byte(g, plan, stream);
    }
    case GemmKernel::limb: return launch_limb(g, plan, stream);
    case GemmKernel::tile: break;
  }
  if (is_complex(g.in)) return launch_complex_tile(g, plan, stream);
  if (is_floating(g.in)) return launch_float_tile(g, plan, stream);
  return launch_integer_tile(g, plan, stream);
}

}  // namespace myops
