// The CPU backend: where the entry points hand a problem to the engines, with torch's threads and memory.
#pragma once
#include "../sparse_view.h"
#include "../torch_bridge.h"

namespace myops {

struct Cpu {
  static constexpr bool kReports = true;  // what was found is always known when run() returns

  // Whether Spmm and Sddmm gather rows whose elements lie apart sooner than they are copied.
  static bool gathers_spread(int64_t entries, int64_t rows);

  static void run(const Gemm& problem, const Tensor& like);
  static void pack(const Gemm& problem, void* panels);  // of B, behind their header
  static void run(const Add& problem, const Tensor& like);
  static Status run(const Spmm& problem, const Tensor& like);
  static Status run(const BlockSpmm& problem, const Tensor& like);
  static Status run(const ScatterSpmm& problem, const Tensor& like);
  static Status run(const Extremum& problem, const Tensor& like);
  static Status run(const Sddmm& problem, const Tensor& like);
  static Status run(const SpmmBackward& problem, const Tensor& like);
  static void run(const Turn& problem, const Tensor& like);
  static Status run(const Join& problem, const Tensor& like);
  static Status run(const Transpose& problem, const Tensor& like);
  static Status run(const CompressRows& problem, const Tensor& like);
  static Status run(const Spgemm& problem, const Tensor& like, const SpgemmSink& sink);
  static Status run(const SpgemmBackward& problem, const Tensor& like);
};

}  // namespace myops
