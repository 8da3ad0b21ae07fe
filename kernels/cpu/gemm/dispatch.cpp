// CPUID to engine. A forced level that the machine lacks is an error, never a fallback.
#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace myops::cpu {

std::vector<const Engine*> available_engines() {
  std::vector<const Engine*> found;
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  if (bf16) found.push_back(&kAvx512Bf16);
  if (avx512) found.push_back(&kAvx512);
  if (avx2) found.push_back(&kAvx2);
#endif
  found.push_back(&kBaseline);
  return found;
}

const Engine& engine() {
  static const Engine& chosen = []() -> const Engine& {
    const auto found = available_engines();
    const char* forced = std::getenv("MYOPS_ISA");
    if (forced == nullptr || *forced == '\0') return *found.front();
    std::string names;
    for (const Engine* e : found) {
      if (std::string(e->traits.name) == forced) return *e;
      names += std::string(names.empty() ? "" : ", ") + e->traits.name;
    }
    throw std::runtime_error("MYOPS_ISA=" + std::string(forced) + " is not available here; this machine has " + names);
  }();
  return chosen;
}

}  // namespace myops::cpu
