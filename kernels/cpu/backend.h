// The CPU backend: where the entry points hand a problem to the engines, with torch's threads and memory.
#pragma once
#include "../torch_bridge.h"

namespace myops {

struct Cpu {
  static void run(const Gemm& problem, const Tensor& like);
  static void run(const Add& problem, const Tensor& like);
};

}  // namespace myops
