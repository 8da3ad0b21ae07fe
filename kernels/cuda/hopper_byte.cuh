// Wgmma (hopper.cuh) of bytes: 32 of K, both operands along K, sums that wrap modulo 2^32. On a CPU:
// tests/emulation/hopper.h.
#pragma once
#include "hopper.cuh"

#if !defined(MYOPS_CUDA_EMULATION) && !defined(USE_ROCM)  // HIP has no such instructions
namespace myops {

template <int kGroups, int kCount>
__device__ __forceinline__ void wgmma_wait(uint32_t (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(sums[i])::"memory");
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(sums[i])::"memory");
}

#define MYOPS_SUMS4(i) "+r"(sums[i]), "+r"(sums[i + 1]), "+r"(sums[i + 2]), "+r"(sums[i + 3])
#define MYOPS_SUMS16(i) MYOPS_SUMS4(i), MYOPS_SUMS4(i + 4), MYOPS_SUMS4(i + 8), MYOPS_SUMS4(i + 12)

#define MYOPS_WGMMA_BYTE_64(In, type)                                                                  \
  template <>                                                                                          \
  struct Wgmma<In, 64, true, true> {                                                                   \
    __device__ __forceinline__ static void add(uint32_t (&sums)[32], uint64_t a, uint64_t b) {         \
      asm volatile("wgmma.mma_async.sync.aligned.m64n64k32.s32." type "." type                         \
                   " "                                                                                 \
                   "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
                   "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, " \
                   "%32, %33, 1;"                                                                      \
                   : MYOPS_SUMS16(0), MYOPS_SUMS16(16)                                                 \
                   : "l"(a), "l"(b));                                                                  \
    }                                                                                                  \
  };
MYOPS_WGMMA_BYTE_64(int8_t, "s8")
MYOPS_WGMMA_BYTE_64(uint8_t, "u8")
#undef MYOPS_WGMMA_BYTE_64

#define MYOPS_WGMMA_BYTE_128(In, type)                                                                 \
  template <>                                                                                          \
  struct Wgmma<In, 128, true, true> {                                                                  \
    __device__ __forceinline__ static void add(uint32_t (&sums)[64], uint64_t a, uint64_t b) {         \
      asm volatile("wgmma.mma_async.sync.aligned.m64n128k32.s32." type "." type                        \
                   " "                                                                                 \
                   "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
                   "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "  \
                   "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "  \
                   "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, " \
                   "%64, %65, 1;"                                                                      \
                   : MYOPS_SUMS16(0), MYOPS_SUMS16(16), MYOPS_SUMS16(32), MYOPS_SUMS16(48)             \
                   : "l"(a), "l"(b));                                                                  \
    }                                                                                                  \
  };
MYOPS_WGMMA_BYTE_128(int8_t, "s8")
MYOPS_WGMMA_BYTE_128(uint8_t, "u8")
#undef MYOPS_WGMMA_BYTE_128

#define MYOPS_WGMMA_BYTE_256(In, type)                                                                                 \
  template <>                                                                                                          \
  struct Wgmma<In, 256, true, true> {                                                                                  \
    __device__ __forceinline__ static void add(uint32_t (&sums)[128], uint64_t a, uint64_t b) {                        \
      asm volatile("wgmma.mma_async.sync.aligned.m64n256k32.s32." type "." type                                        \
                   " "                                                                                                 \
                   "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                           \
                   "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                  \
                   "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                  \
                   "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                  \
                   "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                  \
                   "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                  \
                   "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "      \
                   "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, " \
                   "%128, %129, 1;"                                                                                    \
                   : MYOPS_SUMS16(0), MYOPS_SUMS16(16), MYOPS_SUMS16(32), MYOPS_SUMS16(48), MYOPS_SUMS16(64),          \
                     MYOPS_SUMS16(80), MYOPS_SUMS16(96), MYOPS_SUMS16(112)                                             \
                   : "l"(a), "l"(b));                                                                                  \
    }                                                                                                                  \
  };
MYOPS_WGMMA_BYTE_256(int8_t, "s8")
MYOPS_WGMMA_BYTE_256(uint8_t, "u8")
#undef MYOPS_WGMMA_BYTE_256
#undef MYOPS_SUMS16
#undef MYOPS_SUMS4

}  // namespace myops
#endif
