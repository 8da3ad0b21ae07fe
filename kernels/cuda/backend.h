// The CUDA backend: where the entry points hand a problem to the kernels, on the current stream of the tensor's device.
#pragma once
#include "../torch_bridge.h"

namespace myops {

struct Cuda {
  static void run(const Gemm& problem, const Tensor& like);
  static void run(const Add& problem, const Tensor& like);
};

}  // namespace myops
