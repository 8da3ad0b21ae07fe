// The few places where a kernel touches the machine: launch, shared memory, 16-bit float types.
//
// The same kernel sources also compile as C++ on a CPU (tests/emulation/cuda_emulation.h, which defines these names and
// MYOPS_CUDA_EMULATION), where shared_load and shared_store find races and load_pack and store_pack find misalignment.
// Hence the rules for kernels: no inline PTX, no __shared__ keyword, every access to shared memory through the former
// two functions, and every access to global memory that is wider than an element through the latter two.
#pragma once
#include <cstddef>

#ifndef MYOPS_CUDA_EMULATION
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

namespace myops {

// What a kernel has of shared memory without asking is 48 KB, its static part among them, which a launch does not know:
// it asks from 47 KB on. A kernel that has dynamic memory too has at most kOwnShared of static memory.
constexpr size_t kUnaskedShared = 48 * 1024, kOwnShared = 1024;
constexpr bool asks_for_shared(size_t dynamic_bytes) { return dynamic_bytes > kUnaskedShared - kOwnShared; }

// Lets a kernel have that much on the current device, where it has to ask. A kernel keeps the last size that was asked
// for, and another thread may launch it with more between this and the launch. So the size is always the same, what the
// device has: kernels that take the last 1 KB of it are launched with one size.
template <class Kernel>
cudaError_t allow_shared(Kernel* kernel, size_t shared_bytes) {
  if (!asks_for_shared(shared_bytes)) return cudaSuccess;
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  const int wanted = static_cast<int>(shared_bytes), same = most - static_cast<int>(kOwnShared);
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, wanted > same ? wanted : same);
}

// Whether this library has the machine code of a Hopper (sm_90a), which setup.py knows. Without it a Hopper runs that
// of another architecture, where the kernels of hopper.cuh are empty and none waits for the kernel in front of it.
#ifndef MYOPS_SM90A
#define MYOPS_SM90A 1
#endif

// 10 * major + minor of a device, a Hopper without its code being what came before it.
inline cudaError_t query_capability(int device, int* capability) {
  int major = 0, minor = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  *capability = major == 9 && !MYOPS_SM90A ? 80 : 10 * major + minor;
  return error;
}

}  // namespace myops

#ifdef __CUDACC__
namespace myops {

// Statically allocated shared memory of one block, one object per type T.
template <class T>
__device__ __forceinline__ T& shared_storage() {
  __shared__ alignas(16) unsigned char bytes[sizeof(T)];
  return *reinterpret_cast<T*>(bytes);
}

// Shared memory whose size the launch gives.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];
  return reinterpret_cast<T*>(dynamic_shared_bytes);
}

template <class T>
__device__ __forceinline__ T shared_load(const T* address) {
  return *address;
}

template <class T>
__device__ __forceinline__ void shared_store(T* address, const T& value) {
  *address = value;
}

// T is a Pack (element.cuh) over elements in global memory; the address must be aligned to its size.
template <class T, class Element>
__device__ __forceinline__ T load_pack(const Element* address) {
  return *reinterpret_cast<const T*>(address);
}

template <class T, class Element>
__device__ __forceinline__ void store_pack(Element* address, const T& pack) {
  *reinterpret_cast<T*>(address) = pack;
}

// Returns the launch's own error; errors of the execution surface at the next synchronisation, as everywhere in CUDA.
template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                          cudaStream_t stream, const Arguments&... arguments) {
  const cudaError_t error = allow_shared(kernel, shared_bytes);
  if (error != cudaSuccess) return error;
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
  return cudaGetLastError();
}

// In a kernel that was launched to begin before the one in front of it in the stream has ended: waits for that end.
// Nothing in global memory is touched before.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && !defined(USE_ROCM)
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel may begin, as far as there is room on the multiprocessors.
__device__ __forceinline__ void let_next_kernel_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && !defined(USE_ROCM)
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#ifndef USE_ROCM
inline cudaLaunchAttribute cluster_dimension(int blocks) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(blocks);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  return attribute;
}

// The same in clusters of `cluster` neighbouring blocks (hopper.cuh), a number that divides grid.x; on a Hopper. The
// kernel may begin before the one in front of it has ended: it calls wait_for_previous_kernel.
template <class... Parameters, class... Arguments>
cudaError_t launch_cluster(int cluster, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                           cudaStream_t stream, const Arguments&... arguments) {
  const cudaError_t error = allow_shared(kernel, shared_bytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attributes[2] = {{}, cluster_dimension(cluster)};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared_bytes, config.stream = stream;
  config.attrs = attributes, config.numAttrs = cluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// How many such clusters the device runs at once. Two neighbouring multiprocessors always take two blocks of a cluster;
// of more than that, the groups of multiprocessors leave some over.
template <class Kernel>
cudaError_t clusters_at_once(int cluster, Kernel* kernel, dim3 block, size_t shared_bytes, int* clusters) {
  const cudaError_t error = allow_shared(kernel, shared_bytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute = cluster_dimension(cluster);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(cluster)), config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes, config.attrs = &attribute, config.numAttrs = 1;
  return cudaOccupancyMaxActiveClusters(clusters, kernel, &config);
}
#endif

// launch_kernel, or where `early` such a kernel by itself.
template <class... Parameters, class... Arguments>
cudaError_t launch_kernel_early(bool early, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                                cudaStream_t stream, const Arguments&... arguments) {
#ifndef USE_ROCM
  if (early) return launch_cluster(1, kernel, grid, block, shared_bytes, stream, arguments...);
#endif
  return launch_kernel(kernel, grid, block, shared_bytes, stream, arguments...);
}

}  // namespace myops
#endif
