// What the sparse product and its gradients share: values of any dtype as accumulators, the numbering of products, and
// sums that one thread or a whole block forms.
//
// Kernels are templates over the accumulator alone; the dtype is a switch at a load, which is nothing beside the search
// that goes before it.
#pragma once
#include "block.cuh"

namespace myops {

// All integers are summed in 64 bits, modular.
template <class Acc>
__device__ __forceinline__ Acc load_value(DType type, const void* values, int64_t i);
template <>
__device__ __forceinline__ float load_value(DType type, const void* values, int64_t i) {
  switch (type) {
    case DType::bf16: return widen<float>(static_cast<const __nv_bfloat16*>(values)[i]);
    case DType::f16: return widen<float>(static_cast<const __half*>(values)[i]);
    default: return static_cast<const float*>(values)[i];
  }
}
template <>
__device__ __forceinline__ uint64_t load_value(DType type, const void* values, int64_t i) {
  switch (type) {
    case DType::i8:
    case DType::u8: return static_cast<const uint8_t*>(values)[i];
    case DType::i16: return static_cast<const uint16_t*>(values)[i];
    case DType::i32: return static_cast<const uint32_t*>(values)[i];
    default: return static_cast<const uint64_t*>(values)[i];
  }
}
template <class Acc>
__device__ __forceinline__ Acc load_value(DType, const void* values, int64_t i) {
  return static_cast<const Acc*>(values)[i];
}

__device__ __forceinline__ void store_value(DType type, void* values, int64_t i, float x) {
  switch (type) {
    case DType::bf16: static_cast<__nv_bfloat16*>(values)[i] = narrow<__nv_bfloat16>(x); break;
    case DType::f16: static_cast<__half*>(values)[i] = narrow<__half>(x); break;
    default: static_cast<float*>(values)[i] = x;
  }
}
__device__ __forceinline__ void store_value(DType type, void* values, int64_t i, uint64_t x) {
  switch (type) {
    case DType::i8:
    case DType::u8: static_cast<uint8_t*>(values)[i] = static_cast<uint8_t>(x); break;
    case DType::i16: static_cast<uint16_t*>(values)[i] = static_cast<uint16_t>(x); break;
    case DType::i32: static_cast<uint32_t*>(values)[i] = static_cast<uint32_t>(x); break;
    default: static_cast<uint64_t*>(values)[i] = x;
  }
}
template <class Acc>
__device__ __forceinline__ void store_value(DType, void* values, int64_t i, Acc x) {
  static_cast<Acc*>(values)[i] = x;
}

template <class Acc>
__device__ __forceinline__ Acc times(Acc a, Acc b) {
  Acc product{};
  multiply_add(product, a, b);
  return product;
}

// body(Acc{}) for the accumulator of a dtype.
template <class Body>
cudaError_t with_accumulator(DType type, const Body& body) {
  switch (type) {
    case DType::f32:
    case DType::bf16:
    case DType::f16: return body(float{});
    case DType::f64: return body(double{});
    case DType::c64: return body(Complex<float>{});
    case DType::c128: return body(Complex<double>{});
    default: return body(uint64_t{});
  }
}

// The sum of what the threads of a block hold, in thread 0, in the same order every time. kThreads threads.
template <class Acc>
struct BlockReduction {
  Acc sums[kThreads];

  __device__ __forceinline__ Acc operator()(Acc mine) {
    __syncthreads();  // the sums of a call before were read
    shared_store(&sums[threadIdx.x], mine);
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (static_cast<int>(threadIdx.x) < half) {
        mine = plus(mine, shared_load(&sums[threadIdx.x + half]));
        shared_store(&sums[threadIdx.x], mine);
      }
    }
    return mine;
  }
};

// Some of a block's threads put a number aside for the whole block.
struct BlockList {
  unsigned count;
  int64_t items[kThreads];

  __device__ __forceinline__ void clear() {
    if (threadIdx.x == 0) shared_store(&count, 0u);
    __syncthreads();
  }
  __device__ __forceinline__ void add(int64_t item) { shared_store(&items[atomicAdd(&count, 1u)], item); }
  __device__ __forceinline__ int size() const { return static_cast<int>(shared_load(&count)); }
  __device__ __forceinline__ int64_t operator[](int i) const { return shared_load(&items[i]); }
};

}  // namespace myops
