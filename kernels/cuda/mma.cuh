// Tensor-core products of one warp (ldmatrix, mma.sync, sm_80). All 32 lanes call together. Lane L = 4 * g + t.
//
// A fragment is 16 rows by 32 bytes of K, four registers: rows g, g + 8 of the first 16 bytes, then of the second,
// bytes 4t .. 4t+3 each. B is 8 columns by 32 bytes of K, two registers: column g, bytes 4t .. 4t+3 of each half. The
// sums are 16 x 8: d[0], d[1] are row g, columns 2t, 2t + 1; d[2], d[3] row g + 8. On a CPU: tests/emulation/mma.h.
#pragma once
#if !defined(MYOPS_CUDA_EMULATION) && !defined(USE_ROCM)  // HIP has no such instructions
#include "async_copy.cuh"
#include "launch.h"

namespace myops {

// Four 8 x 16-byte matrices from shared memory: lane L gives the address of row L % 8 of matrix L / 8, 16 bytes
// aligned, and gets bytes 4t .. 4t+3 of row g of each.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same for 16-bit elements, each matrix transposed: a lane gets elements (2t, g) and (2t + 1, g).
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// float32 to the nearest TF32: what WarpMma takes of float, whose other 13 bits it may not look at. Ties go to even, as
// in the copies of a Hopper; an older GPU has only away from zero.
__device__ __forceinline__ void round_to_tf32(uint32_t (&r)[4]) {
#if __CUDA_ARCH__ >= 900
#define MYOPS_NEAREST "rn"
#else
#define MYOPS_NEAREST "rna"
#endif
#pragma unroll
  for (int i = 0; i < 4; ++i) asm("cvt." MYOPS_NEAREST ".tf32.f32 %0, %1;" : "=r"(r[i]) : "f"(__uint_as_float(r[i])));
#undef MYOPS_NEAREST
}

// d += a * b. In is the dtype of a and b; integers wrap.
template <class In>
struct WarpMma;

#define MYOPS_WARP_MMA(In, Sum, constraint, instruction)                                                      \
  template <>                                                                                                 \
  struct WarpMma<In> {                                                                                        \
    __device__ __forceinline__ static void add(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { \
      asm volatile(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"             \
                   : "+" constraint(d[0]), "+" constraint(d[1]), "+" constraint(d[2]), "+" constraint(d[3])   \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                       \
    }                                                                                                         \
  };
MYOPS_WARP_MMA(__nv_bfloat16, float, "f", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
MYOPS_WARP_MMA(__half, float, "f", "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")
MYOPS_WARP_MMA(float, float, "f", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")
MYOPS_WARP_MMA(int8_t, uint32_t, "r", "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32")
MYOPS_WARP_MMA(uint8_t, uint32_t, "r", "mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32")
#undef MYOPS_WARP_MMA

}  // namespace myops
#endif
