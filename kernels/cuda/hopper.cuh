// What a Hopper (sm_90a) adds to a block: barriers in shared memory that count bytes, copies of whole tiles by the
// tensor memory accelerator (TMA), clusters of blocks that reach each other's shared memory, and tensor-core products
// of a warpgroup (wgmma). One function, one instruction or two.
//
// On a CPU: tests/emulation/hopper.h. The other architectures compile a kernel that uses these to nothing
// (MYOPS_HOPPER_CODE); plans do not choose it there.
#pragma once
#include "async_copy.cuh"
#include "launch.h"
#include "tensor_map.h"

#if defined(MYOPS_CUDA_EMULATION) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MYOPS_HOPPER_CODE 1
#else
#define MYOPS_HOPPER_CODE 0
#endif

#if !defined(MYOPS_CUDA_EMULATION) && !defined(USE_ROCM)  // HIP has no such instructions
namespace myops {

// ---- Barriers: a phase is over when `count` arrivals and all expected bytes have come; phases alternate in parity

struct alignas(8) SharedBarrier {
  uint64_t state;
};

// One thread, once; then barrier_init_fence and __syncthreads or cluster_sync before anyone else uses it.
__device__ __forceinline__ void barrier_init(SharedBarrier* barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives, and lets the phase wait for that many bytes of tma_load besides.
__device__ __forceinline__ void barrier_arrive_expect(SharedBarrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void barrier_arrive(SharedBarrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Waits for the end of the phase of that parity; that of a fresh barrier's first phase is 0, and 1 is over already.
__device__ __forceinline__ void barrier_wait(SharedBarrier* barrier, uint32_t parity) {
  uint32_t done = 0;
  while (!done)
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.b32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
}

// ---- TMA -----------------------------------------------------------------------------------------------------------

// One thread. Copies the map's box at these coordinates (elements, the innermost first) to `shared`, 1024 bytes
// aligned; zeros where it reaches beyond the tensor. Its bytes, all of the box, arrive at `barrier`.
__device__ __forceinline__ void tma_load(void* shared, const TensorMap* map, SharedBarrier* barrier,
                                         const int32_t (&at)[5]) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], "
      "[%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
      : "memory");
}

// The same to the same place of every block of the cluster, whose barriers at the same place get the bytes.
__device__ __forceinline__ void tma_load_multicast(void* shared, const TensorMap* map, SharedBarrier* barrier,
                                                   const int32_t (&at)[5]) {
  uint32_t size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, "
      "%4, %5, %6, %7}], [%2], %8;" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]),
      "h"(static_cast<uint16_t>((1u << size) - 1))
      : "memory");
}

// One thread. Brings a box to the L2 cache.
__device__ __forceinline__ void tma_prefetch(const TensorMap* map, const int32_t (&at)[5]) {
  asm volatile("cp.async.bulk.prefetch.tensor.5d.L2.global [%0, {%1, %2, %3, %4, %5}];" ::"l"(map), "r"(at[0]),
               "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
               : "memory");
}

// One thread. Copies a tile to the map's box at these coordinates; what lies beyond the tensor is left out. Every
// thread that wrote the tile has fenced its writes before, and a barrier lies in between.
__device__ __forceinline__ void tma_store(const TensorMap* map, const void* shared, const int32_t (&at)[5]) {
  asm volatile(
      "cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];\n"
      "cp.async.bulk.commit_group;" ::"l"(map),
      "r"(shared_address(shared)), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
      : "memory");
}
// The same thread: its stores have read their tiles, which may be overwritten.
__device__ __forceinline__ void tma_store_wait() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
// What this thread wrote to shared memory is in order with what the TMA reads from there later.
__device__ __forceinline__ void async_proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// One thread: what the map says will be needed soon.
__device__ __forceinline__ void prefetch_map(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// x, by no instruction: what is computed from it is computed here, and not kept in registers from before a loop.
__device__ __forceinline__ int computed_here(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// ---- Clusters ------------------------------------------------------------------------------------------------------

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// All threads of the cluster meet. Of what they wrote only barriers are in order, by barrier_init_fence: for the rest
// each thread would wait until every store of its own is done (MEMBAR.ALL.GPU).
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait;" ::: "memory");
}
// Arrives at the barrier at the same place in the block of that rank, which must not end before it knows of that.
__device__ __forceinline__ void barrier_arrive_at(SharedBarrier* barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}

// ---- Fragments of 8 x 16-byte matrices -----------------------------------------------------------------------------

// The inverse of load_matrices (mma.cuh): lane L gives the address of row L % 8 of matrix L / 8, and has bytes 4t ..
// 4t+3 of row g of each.
__device__ __forceinline__ void store_matrices(void* row, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// ---- Products of a warpgroup: 128 threads call together ------------------------------------------------------------

// Before the first wgmma of a group, after the sums were touched by other instructions.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// A sum that other instructions may have touched, or may touch from here on.
__device__ __forceinline__ void touched(float& sum) { asm volatile("" : "+f"(sum)::"memory"); }
__device__ __forceinline__ void touched(uint32_t& sum) { asm volatile("" : "+r"(sum)::"memory"); }

// All but the kGroups latest groups are done: their operands may be overwritten, and if 0, `sums` may be read.
template <int kGroups, class Sum, int kCount>
__device__ __forceinline__ void wgmma_wait(Sum (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) touched(sums[i]);
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
#pragma unroll
  for (int i = 0; i < kCount; ++i) touched(sums[i]);
}

// The registers of each thread of this warpgroup, from here on. A multiple of 8; the sum over the block must fit.
template <int kRegisters>
__device__ __forceinline__ void registers_increase() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void registers_decrease() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// sums += A (64 rows x 32 bytes of K) * B (32 bytes of K x kN), both in shared memory; sums of bytes wrap modulo 2^32.
// Thread t, sum i is row 16 * (t / 32) + t % 32 / 4 + 8 * (i % 4 / 2), column 8 * (i / 4) + 2 * (t % 4) + i % 2. kA-,
// kBAlongK: what the descriptor describes; only 16-bit elements have operands along their lines. Of float, TF32 counts.
template <class In, int kN, bool kAAlongK, bool kBAlongK>
struct Wgmma;

// The registers of the sums as text and as operands.
#define MYOPS_TEXT32                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define MYOPS_TEXT64                                                                 \
  MYOPS_TEXT32                                                                       \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define MYOPS_TEXT128                                                                            \
  MYOPS_TEXT64                                                                                   \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"             \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"             \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define MYOPS_SUMS4(c, i) c(sums[i]), c(sums[i + 1]), c(sums[i + 2]), c(sums[i + 3])
#define MYOPS_SUMS16(c, i) MYOPS_SUMS4(c, i), MYOPS_SUMS4(c, i + 4), MYOPS_SUMS4(c, i + 8), MYOPS_SUMS4(c, i + 12)
#define MYOPS_SUMS32(c) MYOPS_SUMS16(c, 0), MYOPS_SUMS16(c, 16)
#define MYOPS_SUMS64(c) MYOPS_SUMS32(c), MYOPS_SUMS16(c, 32), MYOPS_SUMS16(c, 48)
#define MYOPS_SUMS128(c) \
  MYOPS_SUMS64(c), MYOPS_SUMS16(c, 64), MYOPS_SUMS16(c, 80), MYOPS_SUMS16(c, 96), MYOPS_SUMS16(c, 112)

// operands: the text of what follows the sums.
#define MYOPS_WGMMA_HALF(In, type, n, count, operands)                                                    \
  template <bool kAAlongK, bool kBAlongK>                                                                 \
  struct Wgmma<In, n, kAAlongK, kBAlongK> {                                                               \
    __device__ __forceinline__ static void add(float (&sums)[count], uint64_t a, uint64_t b) {            \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" MYOPS_TEXT##count \
                   "}, " operands                                                                         \
                   : MYOPS_SUMS##count("+f")                                                              \
                   : "l"(a), "l"(b), "n"(kAAlongK ? 0 : 1), "n"(kBAlongK ? 0 : 1));                       \
    }                                                                                                     \
  };
#define MYOPS_WGMMA_ALONG_K(In, Sum, constraint, k_and_types, n, count, operands)                           \
  template <>                                                                                               \
  struct Wgmma<In, n, true, true> {                                                                         \
    __device__ __forceinline__ static void add(Sum (&sums)[count], uint64_t a, uint64_t b) {                \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #n k_and_types " {" MYOPS_TEXT##count "}, " operands \
                   : MYOPS_SUMS##count(constraint)                                                          \
                   : "l"(a), "l"(b));                                                                       \
    }                                                                                                       \
  };
#define MYOPS_WGMMA_BYTE(In, type, n, count, operands) \
  MYOPS_WGMMA_ALONG_K(In, uint32_t, "+r", "k32.s32." type "." type, n, count, operands)
#define MYOPS_WGMMA_TF32(In, type, n, count, operands) \
  MYOPS_WGMMA_ALONG_K(In, float, "+f", "k8.f32." type "." type, n, count, operands)
#define MYOPS_WGMMA_TYPE(Kind, In, type, more32, more64, more128)                    \
  MYOPS_WGMMA_##Kind(In, type, 64, 32, "%32, %33, 1" more32 ";") MYOPS_WGMMA_##Kind( \
      In, type, 128, 64, "%64, %65, 1" more64 ";") MYOPS_WGMMA_##Kind(In, type, 256, 128, "%128, %129, 1" more128 ";")
MYOPS_WGMMA_TYPE(HALF, __nv_bfloat16, "bf16", ", 1, 1, %34, %35", ", 1, 1, %66, %67", ", 1, 1, %130, %131")
MYOPS_WGMMA_TYPE(HALF, __half, "f16", ", 1, 1, %34, %35", ", 1, 1, %66, %67", ", 1, 1, %130, %131")
MYOPS_WGMMA_TYPE(TF32, float, "tf32", ", 1, 1", ", 1, 1", ", 1, 1")
MYOPS_WGMMA_TYPE(BYTE, int8_t, "s8", "", "", "")
MYOPS_WGMMA_TYPE(BYTE, uint8_t, "u8", "", "", "")
#undef MYOPS_WGMMA_TYPE
#undef MYOPS_WGMMA_TF32
#undef MYOPS_WGMMA_BYTE
#undef MYOPS_WGMMA_ALONG_K
#undef MYOPS_WGMMA_HALF
#undef MYOPS_SUMS128
#undef MYOPS_SUMS64
#undef MYOPS_SUMS32
#undef MYOPS_SUMS16
#undef MYOPS_SUMS4
#undef MYOPS_TEXT128
#undef MYOPS_TEXT64
#undef MYOPS_TEXT32

}  // namespace myops
#endif

namespace myops {

// An operand of Wgmma in shared memory, as tma_load writes it with a box that is 128 bytes wide: rows of 128 bytes,
// whose 16-byte chunks are exchanged (chunk c of row r is at c ^ r % 8).
//   along K      a row is a line, 64 values of K. `stride` bytes from 8 lines to the next 8. 16 values further along K
//                are 32 bytes further.
//   along lines  a row is a value of K, 64 lines. `stride` bytes from 8 values of K to the next 8, `leading` bytes from
//                64 lines to the next 64.
__device__ __forceinline__ uint64_t wgmma_descriptor(const void* tile, int leading, int stride) {
  return uint64_t(shared_address(tile) & 0x3ffff) >> 4 | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 |
         uint64_t(1) << 62;
}

}  // namespace myops
