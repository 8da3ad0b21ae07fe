// Functions of the special-function units, one instruction each: within 2^-22 or so, subnormal numbers taken as zero.
// For what is rounded to 16 bits afterwards.
#pragma once
#include "../launch.h"

namespace myops {

#if defined(MYOPS_CUDA_EMULATION) || defined(USE_ROCM)
__device__ __forceinline__ float fast_exp2(float x) { return exp2f(x); }
__device__ __forceinline__ float fast_reciprocal(float x) { return 1.0f / x; }
#else
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#endif

}  // namespace myops
