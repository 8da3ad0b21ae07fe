// The part of the CUDA language and runtime that the kernels use, as C++ for a CPU. Included before every kernel source
// by -include, with MYOPS_CUDA_EMULATION defined; stands in for kernels/cuda/launch.h and the toolkit's headers.
//
// The tests run the real kernel sources this way where there is no GPU. Results say that the indexing, the barriers and
// the arithmetic are right; they say nothing about speed, coalescing or bank conflicts. __shared__ is left undefined on
// purpose: a raw array could be neither poisoned nor watched, see shared_storage below.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <new>
#include <tuple>
#include <type_traits>
#include <utility>

#include "half.h"
#include "scheduler.h"

// ---- Language ------------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

using dim3 = emulation::Dim3;
static constexpr const emulation::Dim3 &threadIdx = emulation::thread_index, &blockIdx = emulation::block_index,
                                       &blockDim = emulation::block_size, &gridDim = emulation::grid_size;

#define __syncthreads() ::emulation::Scheduler::get().barrier(__FILE__, __LINE__)

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulation::Scheduler::get().exchange(mask, 0, "__syncwarp", true);
}

namespace emulation {

template <class T>
T shuffle(unsigned mask, T value, int source, int width, const char* name) {
  static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const uint64_t* lanes = Scheduler::get().exchange(mask, bits, name);
  const int lane = Scheduler::get().thread() % 32, first = lane / width * width;
  if (source < 0 || source >= width) source = lane - first;  // out of the segment: the lane's own value
  if (!(mask >> (first + source) & 1))
    Scheduler::get().fault(std::string(name) + ": the source lane is not in the mask");
  std::memcpy(&value, &lanes[first + source], sizeof(T));
  return value;
}
inline int lane_in(int width) { return Scheduler::get().thread() % 32 % width; }

template <class T, class Operation>
T atomic(T* address, Operation operation) {  // one fiber runs at a time
  const T old = *address;
  *address = operation(old);
  return old;
}

}  // namespace emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return emulation::shuffle(mask, value, ((source % width) + width) % width, width, "__shfl_sync");
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  return emulation::shuffle(mask, value, emulation::lane_in(width) ^ lanes, width, "__shfl_xor_sync");
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emulation::shuffle(mask, value, emulation::lane_in(width) + static_cast<int>(delta), width,
                            "__shfl_down_sync");
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emulation::shuffle(mask, value, emulation::lane_in(width) - static_cast<int>(delta), width, "__shfl_up_sync");
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* lanes = emulation::Scheduler::get().exchange(mask, predicate != 0, "__ballot_sync");
  unsigned ballot = 0;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1) ballot |= static_cast<unsigned>(lanes[i]) << i;
  return ballot;
}
inline unsigned __match_any_sync(unsigned mask, int value) {
  const uint64_t* lanes = emulation::Scheduler::get().exchange(mask, static_cast<uint64_t>(value), "__match_any_sync");
  unsigned same = 0;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1 && lanes[i] == static_cast<uint64_t>(value)) same |= 1u << i;
  return same;
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  const uint64_t* lanes = emulation::Scheduler::get().exchange(mask, value, "__reduce_or_sync");
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1) bits |= static_cast<unsigned>(lanes[i]);
  return bits;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return result;
}
inline unsigned __brev(unsigned bits) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (bits >> i & 1) << (31 - i);
  return reversed;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

[[noreturn]] inline void __trap() { emulation::Scheduler::get().fault("__trap"); }

template <class T>
T atomicAdd(T* address, T value) {
  return emulation::atomic(address, [=](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicMax(T* address, T value) {
  return emulation::atomic(address, [=](T old) { return old < value ? value : old; });
}
template <class T>
T atomicOr(T* address, T value) {
  return emulation::atomic(address, [=](T old) { return old | value; });
}

// ---- Runtime -------------------------------------------------------------------------------------------------------

using cudaStream_t = struct emulated_stream*;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

namespace emulation {

inline std::string last_fault;  // the message behind the last cudaErrorLaunchFailure
inline cudaError_t last_error = cudaSuccess;
inline int multiprocessors = 132, capability = 80, shared_memory = Scheduler::kMaxShared;
// Dynamic shared memory that each kernel asked for, on each device, told by what that has.
inline std::map<std::pair<const void*, int>, int> asked_shared;

}  // namespace emulation

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = emulation::last_error;
  emulation::last_error = cudaSuccess;
  return error;
}
inline const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess                     ? "cudaSuccess"
         : error == cudaErrorInvalidValue         ? "cudaErrorInvalidValue"
         : error == cudaErrorInvalidConfiguration ? "cudaErrorInvalidConfiguration"
                                                  : "cudaErrorLaunchFailure";
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? emulation::last_fault.c_str() : cudaGetErrorName(error);
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
enum cudaMemcpyKind { cudaMemcpyDeviceToHost = 2 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone };
inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount      ? emulation::multiprocessors
           : attribute == cudaDevAttrComputeCapabilityMajor ? emulation::capability / 10
           : attribute == cudaDevAttrComputeCapabilityMinor ? emulation::capability % 10
                                                            : emulation::shared_memory;
  return cudaSuccess;
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
// Each kernel may ask for one size: threads that ask for several may launch with each other's.
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  const auto asked = emulation::asked_shared.insert({{kernel, emulation::shared_memory}, bytes}).first;
  if (bytes <= emulation::shared_memory && asked->second == bytes) return cudaSuccess;
  return emulation::last_error = cudaErrorInvalidValue;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int bytes) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, bytes);
}

// ---- What kernels/cuda/launch.h defines ----------------------------------------------------------------------------

#include "../../kernels/cuda/launch.h"  // what the two have in common

namespace myops {

template <class T>
T& shared_storage() {
  static char key;  // its address names T
  return *static_cast<T*>(emulation::Scheduler::get().static_shared(&key, sizeof(T), alignof(T)));
}

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(emulation::Scheduler::get().dynamic_shared());
}

template <class T>
T shared_load(const T* address, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulation::Scheduler::get().check_shared(address, sizeof(T), false, file, line);
  T value;
  std::memcpy(static_cast<void*>(&value), address, sizeof(T));  // the array may be of T's elements
  return value;
}

template <class T>
void shared_store(T* address, const std::common_type_t<T>& value, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  emulation::Scheduler::get().check_shared(address, sizeof(T), true, file, line);
  std::memcpy(static_cast<void*>(address), &value, sizeof(T));
}

template <class T, class Element>
T load_pack(const Element* address) {
  emulation::Scheduler::get().check_aligned(address, sizeof(T));
  T pack;
  std::memcpy(static_cast<void*>(&pack), address, sizeof(T));
  return pack;
}

template <class T, class Element>
void store_pack(Element* address, const T& pack) {
  emulation::Scheduler::get().check_aligned(address, sizeof(T));
  std::memcpy(static_cast<void*>(address), &pack, sizeof(T));
}

inline void wait_for_previous_kernel(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (!emulation::left_out("wait_for_previous_kernel", file, line)) emulation::Scheduler::get().begin();
}
inline void let_next_kernel_begin() {}

// early: as a kernel that has to wait for the one before it.
template <class... Parameters, class... Arguments>
cudaError_t run_kernel(bool early, int cluster, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                       size_t shared_bytes, const Arguments&... arguments) {
  using emulation::Scheduler;
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  const auto device_bytes = static_cast<size_t>(emulation::shared_memory);
  if (threads == 0 || threads > 1024 || threads * static_cast<unsigned>(cluster) > Scheduler::kMaxThreads ||
      grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535 ||
      shared_bytes > device_bytes || cluster < 1 || cluster > Scheduler::kMaxCluster ||
      grid.x % static_cast<unsigned>(cluster) != 0)
    return emulation::last_error = cudaErrorInvalidConfiguration;
  if (const cudaError_t error = allow_shared(kernel, shared_bytes); error != cudaSuccess) return error;
  // Of what it has asked for a kernel need not take all, but its static part lies beside all of it.
  const auto asked = emulation::asked_shared.find({reinterpret_cast<const void*>(kernel), emulation::shared_memory});
  const size_t limit =
      asks_for_shared(shared_bytes) ? shared_bytes + device_bytes - static_cast<size_t>(asked->second) : kUnaskedShared;
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<std::decay_t<Parameters>...> arguments;
  } call{kernel, std::tuple<std::decay_t<Parameters>...>(arguments...)};
  const auto run_thread = [](void* p) {
    Call* c = static_cast<Call*>(p);
    std::apply(c->kernel, c->arguments);
  };
  emulation::last_fault =
      Scheduler::get().run_grid(grid, block, shared_bytes, limit, run_thread, &call, cluster, early);
  if (emulation::last_fault.empty()) return cudaSuccess;
  return emulation::last_error = cudaErrorLaunchFailure;
}

// As many as there are multiprocessors for, less one.
template <class Kernel>
cudaError_t clusters_at_once(int cluster, Kernel*, dim3, size_t, int* clusters) {
  *clusters = emulation::multiprocessors < 2 * cluster ? 1 : emulation::multiprocessors / cluster - 1;
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t launch_cluster(int cluster, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                           cudaStream_t, const Arguments&... arguments) {
  return run_kernel(true, cluster, kernel, grid, block, shared_bytes, arguments...);
}

template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
                          const Arguments&... arguments) {
  run_kernel(false, 1, kernel, grid, block, shared_bytes, arguments...);
  return cudaGetLastError();
}

template <class... Parameters, class... Arguments>
cudaError_t launch_kernel_early(bool early, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                                cudaStream_t stream, const Arguments&... arguments) {
  if (early) return launch_cluster(1, kernel, grid, block, shared_bytes, stream, arguments...);
  return launch_kernel(kernel, grid, block, shared_bytes, stream, arguments...);
}

}  // namespace myops

#include "async_copy.h"
#include "hopper.h"
#include "mma.h"
