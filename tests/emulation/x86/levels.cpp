// The levels whose instructions tests/emulation/x86/immintrin.h computes, in place of kernels/cpu/gemm/dispatch.cpp.
#include "cpu/gemm/dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace myops::cpu {

std::vector<const Engine*> available_engines() { return {&kAmxFp16, &kAmx, &kAvx512Bf16, &kAvx512}; }

const Engine& engine() {
  static const Engine& chosen = []() -> const Engine& {
    const auto found = available_engines();
    const char* forced = std::getenv("MYOPS_ISA");
    for (const Engine* e : found)
      if (forced == nullptr || std::string(e->traits.name) == forced) return *e;
    throw std::runtime_error("MYOPS_ISA=" + std::string(forced) + " is not emulated");
  }();
  return chosen;
}

int long_columns() { return 4; }

}  // namespace myops::cpu
