// The launcher of the elementwise sum: plain C++ over an Add, without torch.
#pragma once
#include "../../matrix_view.h"
#include "../launch.h"

namespace myops {

// Enqueues D = X + alpha * Y on `stream` of the current device; allocates nothing and waits for nothing.
cudaError_t launch_add(const Add& problem, cudaStream_t stream);

}  // namespace myops
