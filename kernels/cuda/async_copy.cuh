// Copies from global to shared memory that go on while a thread computes (cp.async, sm_80).
//
// A thread's copies since its last async_commit are a group. After async_wait<N> all but its N latest groups have
// arrived, for that thread; other threads see them after the next barrier. On a CPU: tests/emulation/async_copy.h.
#pragma once
#if !defined(MYOPS_CUDA_EMULATION) && !defined(USE_ROCM)  // HIP has no such instructions
#include <cuda_runtime.h>

#include <cstdint>

namespace myops {

__device__ __forceinline__ uint32_t shared_address(const void* address) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(address));
}

// Copies `bytes` <= 16 bytes and writes zeros for the rest of the 16. Both addresses are 16 bytes aligned; where
// `bytes` is 0 nothing is read.
__device__ __forceinline__ void async_copy16(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}

// The same for 4, 8 or 16 bytes, to which both addresses are aligned.
template <int kSize>
__device__ __forceinline__ void async_copy(void* shared, const void* global, int bytes) {
  if constexpr (kSize == 16)
    async_copy16(shared, global, bytes);
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global), "n"(kSize),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int kGroups>
__device__ __forceinline__ void async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

}  // namespace myops
#endif
