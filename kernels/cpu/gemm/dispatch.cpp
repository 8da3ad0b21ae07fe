// CPUID to engine. A forced level that the machine lacks is an error, never a fallback.
#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace myops::cpu {
namespace {

#if defined(__x86_64__) || defined(_M_X64)
// The state of the tiles is large, so Linux hands it out on request only, once for the process.
bool may_use_amx() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // asm/prctl.h: ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// __builtin_cpu_supports("amx-fp16"), which gcc knows from 13 on.
bool has_amx_fp16() {
  unsigned eax = 0, ebx, ecx, edx;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 21 & 1) != 0;
}
#endif

}  // namespace

std::vector<const Engine*> available_engines() {
  std::vector<const Engine*> found;
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  const bool amx = bf16 && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
                   __builtin_cpu_supports("amx-int8") && may_use_amx();
  if (amx && has_amx_fp16()) found.push_back(&kAmxFp16);
  if (amx) found.push_back(&kAmx);
  if (bf16) found.push_back(&kAvx512Bf16);
  if (avx512) found.push_back(&kAvx512);
  if (avx2) found.push_back(&kAvx2);
#elif defined(__aarch64__)
  found.push_back(&kNeon);
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

// The prefetcher of a Zen prefers one long stream: 1x4096x4096 from memory takes 0.70 ms in float16 on two threads of a
// Zen 5, 0.80 with four columns side by side. A Golden Cove takes 5.8 and 4.4 in float32.
int long_columns() {
#if defined(__x86_64__) || defined(_M_X64)
  static const int columns = __builtin_cpu_is("amd") ? 1 : 4;
  return columns;
#else
  return 4;
#endif
}

}  // namespace myops::cpu
