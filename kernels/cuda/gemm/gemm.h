// The launchers of the matrix product: plain C++ over a Gemm, without torch.
#pragma once
#include "../launch.h"
#include "plan.h"

namespace myops {

// Enqueues the product on `stream` of the current device; allocates nothing and waits for nothing.
cudaError_t launch_gemm(const Gemm& problem, cudaStream_t stream);

// The same by a given plan, which must be one for this problem. For tests and for tuning.
cudaError_t launch_gemm_planned(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);

// The families of tile.cuh, one translation unit each; defined for the dtypes that the name says.
cudaError_t launch_float_tile(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);
cudaError_t launch_complex_tile(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);
cudaError_t launch_integer_tile(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream);

}  // namespace myops
