// The face of one ISA level: its traits for the planner, and its compiled engines.
//
// A unit in this folder is compiled with its level's flags (setup.py). Whatever it instantiates is a template over its
// own Isa type or has internal linkage, so that no wide instruction leaks into code that other CPUs run.
#pragma once
#include "../../elementwise.h"
#include "../driver.h"
#include "../peak.h"
#include "../plan.h"

namespace myops::cpu {

struct Engine {
  IsaTraits traits;
  void (*gemm)(const Gemm&, const Plan&, const Runtime&);
  void (*add)(const Add&, const Runtime&);
  double (*peak_rate)(DType type, double seconds);  // GFLOP/s of one core, the roof of the benchmarks
};

template <class Isa>
constexpr Engine make_engine(const char* name, bool converts_f16) {
  return {{name, Isa::kBytes, Isa::kPanelVectors, Isa::kMaskedLoads, converts_f16, Isa::kBf16Dot, Isa::kInt8Dot,
           Isa::kMatrixUnit},
          &gemm<Isa>,
          &add<Isa>,
          &peak_rate<Isa>};
}

extern const Engine kBaseline;
#if defined(__x86_64__) || defined(_M_X64)
extern const Engine kAvx2, kAvx512, kAvx512Bf16, kAmx;
#endif

}  // namespace myops::cpu
