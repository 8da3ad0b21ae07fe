// The launchers of the matrix product: plain C++ over a Gemm, without torch.
#pragma once
#include "../launch.h"
#include "plan.h"

namespace myops {

// The current device, as a plan sees it.
cudaError_t query_machine(Machine* machine);

// Enqueues the product on `stream` of the current device by a plan for this problem; allocates nothing and waits for
// nothing. workspace: plan.workspace_bytes of device memory, 16 bytes aligned, whose contents do not matter.
cudaError_t launch_gemm(const Gemm& problem, const GemmPlan& plan, void* workspace, cudaStream_t stream);

// The families, one or more translation units each; defined for the dtypes that the name says.
cudaError_t launch_float_tile(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);
cudaError_t launch_complex_tile(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);
cudaError_t launch_integer_tile(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);
cudaError_t launch_skinny_float(const Gemm& problem, const GemmPlan& plan, void* workspace, cudaStream_t stream);
cudaError_t launch_skinny_half(const Gemm& problem, const GemmPlan& plan, void* workspace, cudaStream_t stream);
cudaError_t launch_mma_half(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);
cudaError_t launch_mma_tf32(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);
cudaError_t launch_mma_byte(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);
cudaError_t launch_wgmma_bf16(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);
cudaError_t launch_wgmma_tf32(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);
cudaError_t launch_wgmma_f16(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);
cudaError_t launch_limb(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);
cudaError_t launch_limb_wgmma(const Gemm& problem, const GemmPlan& plan, void* workspace, cudaStream_t stream);
cudaError_t launch_limb_pack(const LimbPack& a, const LimbPack& b, int element_bytes, cudaStream_t stream);
cudaError_t launch_pack(const PackOperand* operands, int count, int element_bytes, cudaStream_t stream);  // at most 2
cudaError_t launch_tiny(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);

}  // namespace myops
