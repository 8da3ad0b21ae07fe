// Which products torch's own kernels compute faster on a CPU (../../route.h), plain C++.
#pragma once
#include "../../route.h"
#include "plan.h"

namespace myops::cpu {

// On CPUs with a matrix unit, which are Intel's, where MKL is at home. Products of which the smaller of M and N is from
// `least` to `most`, K is kDepth or more, and multiply-adds are kWorthwhile: less, and asking torch costs more than it
// gives. measured: torch's time over ours, 2-core Sapphire Rapids, torch 2.13
// (benchmarks/results/dense-xeon-amx-2threads.txt).
struct NativeRow {
  DType type;
  int64_t least, most;
  const char* measured;
};
constexpr int64_t kAny = INT64_MAX;
constexpr NativeRow kNativeIsFaster[] = {
    {DType::f32, 1, 1, "768^2 0.79 to 0.81, 3072 x 768 0.88 to 1.05, 4096^2 1.00; 2 to 16 rows 0.96 to 1.8, not here"},
    {DType::f32, 17, kAny,
     "n^3: 63 0.70, 129 0.65, 512 0.81 to 0.93, 2048 0.94; 32^3 a batch 0.68; addmm 0.89 to 0.97"},
    {DType::f64, 17, kAny, "n^3: 63 0.66, 129 0.63, 512 0.82 to 0.92, 2048 0.90; addmm 0.86 to 1.08"},
    {DType::f16, 512, kAny, "n^3: 512 0.83 to 0.91, 1024 0.82 to 0.97, 2048 0.85; 512 x 3072 x 768 1.05"},
    {DType::c64, 128, kAny, "n^3: 256 0.86, 512 0.78, 1024 0.76"},
    {DType::c128, 128, kAny, "n^3: 256 0.89, 512 0.76"},
};
constexpr int64_t kDepth = 16;
constexpr double kWorthwhile = 1 << 18;

inline Route choose_route(const Gemm& g, RouteMode mode, const IsaTraits& isa) {
  return myops::choose_route(g, mode, [&](const Gemm&) {
    if (!isa.matrix_unit || g.K < kDepth || double(g.M) * g.N * g.K * g.batch() < kWorthwhile) return false;
    if (arithmetic(g.in, g.K, isa).compute == Compute::matrix_unit) return false;  // no row was measured in the unit
    const int64_t few = g.M < g.N ? g.M : g.N;
    for (const NativeRow& row : kNativeIsFaster)
      if (row.type == g.in && few >= row.least && few <= row.most) return true;
    return false;
  });
}

}  // namespace myops::cpu
