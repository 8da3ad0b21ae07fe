// Torch's own kernels for a product, called below the dispatcher.
#pragma once
#include "../torch_bridge.h"

namespace myops {

// D = alpha * A @ B + beta * C by at::cuda::mm and its family, on the current stream. Requires native_takes
// (gemm/route.h).
void run_native(const Gemm& problem, const Tensor& like);

}  // namespace myops
