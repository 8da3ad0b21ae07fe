// The CUDA backend: where the entry points hand a problem to the kernels, on the current stream of the tensor's device.
#pragma once
#include "../sparse_view.h"
#include "../torch_bridge.h"

namespace myops {

struct Cuda {
  static constexpr bool kReports = false;
  static bool gathers_spread(int64_t, int64_t) { return false; }

  static void run(const Gemm& problem, const Tensor& like);
  static void run(const Add& problem, const Tensor& like);

  // Products wait for nothing, so that they overlap with what Python does next and fit into CUDA graphs: an index out
  // of range stops the kernel, as torch's own indexing does, and ok is returned. Under CUDA_LAUNCH_BLOCKING=1, where
  // torch's errors come at the call that is to blame, they wait and return what they found.
  static Status run(const Spmm& problem, const Tensor& like);
  static Status run(const Extremum& problem, const Tensor& like);
  static Status run(const Sddmm& problem, const Tensor& like);
  static Status run(const CompressRows& problem, const Tensor& like);  // a part of every product of a COO tensor

  // Made once for a matrix: this waits and returns what it found, except while a graph is captured.
  static Status run(const Transpose& problem, const Tensor& like);
  // The size of a result cannot be known without waiting; neither can be captured.
  static Status run(const Spgemm& problem, const Tensor& like, const SpgemmSink& sink);
  static Status run(const SpgemmBackward& problem, const Tensor& like);
};

}  // namespace myops
