// The face of one ISA level: its traits for the planner, and its compiled engines.
//
// A unit in this folder is compiled with its level's flags (setup.py). Whatever it instantiates is a template over its
// own Isa type or has internal linkage, so that no wide instruction leaks into code that other CPUs run.
#pragma once
#include "../../elementwise.h"
#include "../../sparse/blocks.h"
#include "../../sparse/extremum.h"
#include "../../sparse/sddmm.h"
#include "../../sparse/turn.h"
#include "../driver.h"
#include "../peak.h"
#include "../plan.h"

namespace myops::cpu {

struct Engine {
  IsaTraits traits;
  void (*gemm)(const Gemm&, const Plan&, const Runtime&);
  void (*pack)(const Gemm&, const Plan&, void* panels);  // of a problem with M == 1 and b_panels; B: the weight
  void (*add)(const Add&, const Runtime&);
  Status (*spmm)(const Spmm&, const Partition&, const Runtime&);
  Status (*block_spmm)(const BlockSpmm&, const Partition&, const Runtime&);
  Status (*extremum)(const Extremum&, const Partition&, const Runtime&);
  Status (*sddmm)(const Sddmm&, const Partition&, const Runtime&);
  Status (*spmm_backward)(const SpmmBackward&, const Partition&, const Runtime&);
  void (*turn)(const Turn&, const Runtime&);
  double (*peak_rate)(DType type, double seconds);  // GFLOP/s of one core, the roof of the benchmarks
};

template <class Isa, Level kLevel>
constexpr Engine make_engine() {
  constexpr IsaTraits traits = kLevels[static_cast<int>(kLevel)];
  static_assert(traits.vector_bytes == Isa::kBytes && traits.panel_vectors == Isa::kPanelVectors &&
                    traits.masked_loads == Isa::kMaskedLoads && traits.bf16_dot == Isa::kBf16Dot &&
                    traits.i8_dot == Isa::kInt8Dot && traits.matrix_unit == Isa::kMatrixUnit,
                "what kLevels says of this level");
  return {traits,
          &gemm<Isa>,
          &pack_weight<Isa>,
          &add<typename Isa::Base>,
          &spmm<typename Isa::Base>,
          &block_spmm<typename Isa::Base>,
          &extremum<typename Isa::Base>,
          &sddmm<typename Isa::Base>,
          &spmm_backward<typename Isa::Base>,
          &turn<typename Isa::Base>,
          &peak_rate<Isa>};
}

// The kernels that levels take from the one below: `template` makes them, in its own unit, `extern template` declares
// them to the others.
#define MYOPS_KERNELS_OF(template_, Isa)                                                      \
  template_ void gemm<Isa>(const Gemm&, const Plan&, const Runtime&);                         \
  template_ void pack_weight<Isa>(const Gemm&, const Plan&, void*);                           \
  template_ void add<Isa>(const Add&, const Runtime&);                                        \
  template_ Status spmm<Isa>(const Spmm&, const Partition&, const Runtime&);                  \
  template_ Status block_spmm<Isa>(const BlockSpmm&, const Partition&, const Runtime&);       \
  template_ Status extremum<Isa>(const Extremum&, const Partition&, const Runtime&);          \
  template_ Status sddmm<Isa>(const Sddmm&, const Partition&, const Runtime&);                \
  template_ Status spmm_backward<Isa>(const SpmmBackward&, const Partition&, const Runtime&); \
  template_ void turn<Isa>(const Turn&, const Runtime&);

extern const Engine kBaseline;
#if defined(__x86_64__) || defined(_M_X64)
extern const Engine kAvx2, kAvx512, kAvx512Bf16, kAmx, kAmxFp16;
#elif defined(__aarch64__)
extern const Engine kNeon;
#endif

}  // namespace myops::cpu
