// Kernels with one planted bug each, and correct twins: the emulation must find the former and pass the latter.
//
// emulation_planted(name) runs one and returns the fault's text, or an empty string where none was found.
#include <string>

#include "../../kernels/cuda/element.cuh"
#include "../../kernels/cuda/hopper.cuh"

namespace {

constexpr int kThreads = 64;

struct Numbers {
  float value[kThreads];
};

using myops::shared_load;
using myops::shared_store;

// Each thread reads its neighbour's number.
template <bool kBarrier>
void read_neighbour(float* out) {
  Numbers& numbers = myops::shared_storage<Numbers>();
  const int t = static_cast<int>(threadIdx.x);
  shared_store(&numbers.value[t], static_cast<float>(t));
  if (kBarrier) __syncthreads();
  out[t] = shared_load(&numbers.value[(t + 1) % kThreads]);
}

// A second round overwrites what the neighbour may not have read yet.
template <bool kBarrier>
void reuse(float* out) {
  Numbers& numbers = myops::shared_storage<Numbers>();
  const int t = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    shared_store(&numbers.value[t], static_cast<float>(t + round));
    __syncthreads();
    sum += shared_load(&numbers.value[(t + 33) % kThreads]);
    if (kBarrier) __syncthreads();
  }
  out[t] = sum;
}

// The same missing barrier with plain accesses, which only the order of threads and the poison can show.
void read_neighbour_unwatched(float* out) {
  Numbers& numbers = myops::shared_storage<Numbers>();
  const int t = static_cast<int>(threadIdx.x);
  numbers.value[t] = static_cast<float>(t);
  out[t] = numbers.value[(t + 1) % kThreads];
}

void divergent_barrier(float* out) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = 0;
}

void two_barriers(float* out) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 0;
}

void beyond_shared(float* out) {
  Numbers& numbers = myops::shared_storage<Numbers>();
  shared_store(&numbers.value[threadIdx.x + 1], 1.0f);
  out[threadIdx.x] = 0;
}

void beyond_shared_unwatched(float* out) {
  Numbers& numbers = myops::shared_storage<Numbers>();
  *(&numbers.value[0] + threadIdx.x + 1) = 1.0f;
  out[threadIdx.x] = 0;
}

void misaligned(float* out) {
  struct Bytes {
    alignas(16) char value[64];
  };
  Bytes& bytes = myops::shared_storage<Bytes>();
  shared_store(reinterpret_cast<uint32_t*>(&bytes.value[2]), 1u);
  out[threadIdx.x] = 0;
}

void missing_lane(float* out) {
  float sum = 0;
  if (threadIdx.x != 5) sum = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
  out[threadIdx.x] = sum;
}

// Lanes of one warp exchange numbers through shared memory: ordered by __syncwarp, or not.
template <bool kSync>
void warp_exchange(float* out) {
  Numbers& numbers = myops::shared_storage<Numbers>();
  const int t = static_cast<int>(threadIdx.x);
  shared_store(&numbers.value[t], static_cast<float>(t));
  if (kSync) __syncwarp();
  out[t] = shared_load(&numbers.value[t ^ 1]);
}

// A row of 128 bytes, written by threads and stored by TMA: what they wrote is not in order with that by a barrier
// alone.
template <bool kFence>
void store_row(float* out) {
  float* row = myops::dynamic_shared<float>();
  const int t = static_cast<int>(threadIdx.x);
  if (t < 32) shared_store(&row[t], static_cast<float>(t));  // the first row, which is not swizzled
  if (kFence) myops::async_proxy_fence();
  __syncthreads();
  if (t != 0) return;
  myops::TensorMapSpec spec;
  spec.data = out, spec.type = myops::DType::f32;
  spec.size[0] = 32, spec.box[0] = 32, spec.box[1] = 1;
  for (uint64_t& stride : spec.stride) stride = 128;
  myops::TensorMap map;
  if (myops::make_tensor_map(spec, &map) != cudaSuccess) return;
  myops::tma_store(&map, row, {0, 0, 0, 0, 0});
  myops::tma_store_wait();
}

// wgmma of zeros that threads wrote.
template <bool kFence>
void multiply_zeros(float* out) {
  float* tile = myops::dynamic_shared<float>();
  const int t = static_cast<int>(threadIdx.x);
  for (int i = t; i < 2048; i += kThreads) shared_store(&tile[i], 0.0f);
  if (kFence) myops::async_proxy_fence();
  __syncthreads();
  float sums[32] = {};
  const uint64_t lines = myops::wgmma_descriptor(tile, 16, 1024);
  myops::wgmma_fence();
  myops::Wgmma<__nv_bfloat16, 64, true, true>::add(sums, lines, lines);
  myops::wgmma_commit();
  myops::wgmma_wait<0>(sums);
  out[t] = sums[t % 32];
}

// A kernel that is launched before the one in front of it has ended, whose results it reads.
template <bool kWait>
void begin_early(float* out) {
  if (kWait) myops::wait_for_previous_kernel();
  const auto two = myops::load_pack<myops::Pack<float, 2>>(out + threadIdx.x / 2 * 2);
  out[threadIdx.x] = two.v[0];
}
void never_wait(float*) {}

// Correct: sums by shuffles, then over warps in dynamic shared memory; counts with an atomic; votes.
void reduce(float* out) {
  float* partial = myops::dynamic_shared<float>();
  const int t = static_cast<int>(threadIdx.x);
  float sum = static_cast<float>(t);
  for (unsigned delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(0xffffffffu, sum, delta);
  if (t % 32 == 0) shared_store(&partial[t / 32], sum);
  const unsigned odd = __ballot_sync(0xffffffffu, t % 2);
  __syncthreads();
  atomicAdd(out, (shared_load(&partial[0]) + shared_load(&partial[1])) / kThreads);  // 2016 / 64 from each thread
  if (t == 0) out[1] = odd == 0xaaaaaaaau ? 1.0f : 0.0f;
}

std::string run(void (*kernel)(float*), float* out, size_t shared_bytes = 256, bool early = false) {
  const cudaError_t error =
      myops::launch_kernel_early(early, kernel, dim3(1), dim3(kThreads), shared_bytes, nullptr, out);
  cudaGetLastError();  // told here, and not again by the next launch
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

std::string run_planted(const std::string& name) {
  alignas(16) float out[kThreads] = {};
  if (name == "read_neighbour without its barrier") return run(read_neighbour<false>, out);
  if (name == "reuse without its barrier") return run(reuse<false>, out);
  if (name == "divergent barrier") return run(divergent_barrier, out);
  if (name == "two barriers") return run(two_barriers, out);
  if (name == "store beyond shared memory") return run(beyond_shared, out);
  if (name == "unwatched store beyond shared memory") return run(beyond_shared_unwatched, out);
  if (name == "misaligned store") return run(misaligned, out);
  if (name == "missing lane") return run(missing_lane, out);
  if (name == "warp exchange without __syncwarp") return run(warp_exchange<false>, out);
  if (name == "tma_store of what threads wrote") return run(store_row<false>, out);
  if (name == "wgmma of what threads wrote") return run(multiply_zeros<false>, out, 8192);
  if (name == "early without its wait") return run(begin_early<false>, out, 256, true);
  if (name == "early, never waiting") return run(never_wait, out, 256, true);
  if (name == "unwatched read_neighbour without its barrier") {
    run(read_neighbour_unwatched, out);
    for (float x : out)
      if (std::isnan(x)) return "poison was read";
    return "";
  }
  if (name == "correct") {
    std::string error = run(read_neighbour<true>, out) + run(reuse<true>, out) + run(warp_exchange<true>, out);
    error += run(multiply_zeros<true>, out, 8192) + run(begin_early<true>, out, 256, true);
    error += run(store_row<true>, out);
    if (out[3] != 3.0f || out[31] != 31.0f) error += "a wrong row";
    out[0] = out[1] = 0;
    error += run(reduce, out);
    return error.empty() && (out[0] != 2016.0f || out[1] != 1.0f) ? "a wrong result" : error;
  }
  return "no kernel of that name";
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const char* emulation_planted(const char* name) {
  static std::string message;
  message = run_planted(name);
  return message.c_str();
}
