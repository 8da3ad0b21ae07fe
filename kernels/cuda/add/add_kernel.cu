// D = X + alpha * Y for any strides and any mixture of dtypes. Not here: promotion and broadcasting (../../add.h).
//
// The sum is formed in the compute type of D: float for float32 and the 16-bit floats, double, complex, uint64_t for
// every integer (modular), bool for bool (x || y). Two kernels:
//   contiguous   X, Y and D of one dtype, one run of memory, 16 bytes per access; X or Y may be a value
//   strided      everything else; dtypes are switched on per element, which is uniform over the grid
#include "add_kernel.h"

#include <type_traits>

#include "../element.cuh"

namespace myops {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 2147483647;  // of grid.x

// An element of dtype `type` in the compute type. Only pairs that promotion produces are exact.
template <class Compute, class From>
struct Convert {
  __device__ __forceinline__ static Compute of(From x) { return static_cast<Compute>(x); }
};
template <class T, class From>
struct Convert<Complex<T>, From> {
  __device__ __forceinline__ static Complex<T> of(From x) { return {static_cast<T>(x), T(0)}; }
};
template <class T, class From>
struct Convert<Complex<T>, Complex<From>> {
  __device__ __forceinline__ static Complex<T> of(Complex<From> x) {
    return {static_cast<T>(x.re), static_cast<T>(x.im)};
  }
};
template <class To, class From>
struct Convert<To, Complex<From>> {  // does not occur: a complex operand makes a complex result
  __device__ __forceinline__ static To of(Complex<From> x) { return static_cast<To>(x.re); }
};

template <class Compute>
__device__ __forceinline__ Compute load_as(DType type, const void* data, int64_t i) {
  switch (type) {
    case DType::f32: return Convert<Compute, float>::of(static_cast<const float*>(data)[i]);
    case DType::f64: return Convert<Compute, double>::of(static_cast<const double*>(data)[i]);
    case DType::bf16: return Convert<Compute, float>::of(__bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]));
    case DType::f16: return Convert<Compute, float>::of(__half2float(static_cast<const __half*>(data)[i]));
    case DType::c64: return Convert<Compute, Complex<float>>::of(static_cast<const Complex<float>*>(data)[i]);
    case DType::c128: return Convert<Compute, Complex<double>>::of(static_cast<const Complex<double>*>(data)[i]);
    case DType::i8: return Convert<Compute, int8_t>::of(static_cast<const int8_t*>(data)[i]);
    case DType::i16: return Convert<Compute, int16_t>::of(static_cast<const int16_t*>(data)[i]);
    case DType::i32: return Convert<Compute, int32_t>::of(static_cast<const int32_t*>(data)[i]);
    case DType::i64: return Convert<Compute, int64_t>::of(static_cast<const int64_t*>(data)[i]);
    case DType::u8: return Convert<Compute, uint8_t>::of(static_cast<const uint8_t*>(data)[i]);
    default: return Convert<Compute, bool>::of(static_cast<const uint8_t*>(data)[i] != 0);
  }
}

__device__ __forceinline__ void store_as(DType type, void* data, int64_t i, float x) {
  if (type == DType::f32)
    static_cast<float*>(data)[i] = x;
  else if (type == DType::bf16)
    static_cast<__nv_bfloat16*>(data)[i] = narrow<__nv_bfloat16>(x);
  else
    static_cast<__half*>(data)[i] = narrow<__half>(x);
}
__device__ __forceinline__ void store_as(DType, void* data, int64_t i, double x) { static_cast<double*>(data)[i] = x; }
template <class T>
__device__ __forceinline__ void store_as(DType, void* data, int64_t i, Complex<T> x) {
  static_cast<Complex<T>*>(data)[i] = x;
}
__device__ __forceinline__ void store_as(DType type, void* data, int64_t i, uint64_t x) {
  switch (type) {
    case DType::i8:
    case DType::u8: static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(x); break;
    case DType::i16: static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(x); break;
    case DType::i32: static_cast<uint32_t*>(data)[i] = static_cast<uint32_t>(x); break;
    default: static_cast<uint64_t*>(data)[i] = x;
  }
}
__device__ __forceinline__ void store_as(DType, void* data, int64_t i, bool x) { static_cast<uint8_t*>(data)[i] = x; }

// bool is its own compute type; its alpha is 1.
template <class Compute>
struct Sum {
  using Alpha = typename Scalar<Compute>::Type;
  __device__ __forceinline__ static Alpha alpha(double value) { return Scalar<Compute>::of(value); }
  __device__ __forceinline__ static Compute of(Compute x, Alpha alpha, Compute y) { return scale_add(alpha, y, x); }
};
template <>
struct Sum<bool> {
  using Alpha = bool;
  __device__ __forceinline__ static bool alpha(double) { return true; }
  __device__ __forceinline__ static bool of(bool x, bool, bool y) { return x || y; }
};

// Index: uint32_t where the element count allows, because a 64-bit division costs several 32-bit ones.
template <class Compute, class Index>
__global__ void __launch_bounds__(kThreads) add_strided(const __grid_constant__ Add p, const int64_t count) {
  const auto alpha = Sum<Compute>::alpha(p.alpha);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    Index rest = static_cast<Index>(i);
    int64_t x_at = 0, y_at = 0, d_at = 0;
    for (int dim = p.dims - 1; dim >= 0; --dim) {
      const Index size = static_cast<Index>(p.size[dim]), outer = rest / size;
      const int64_t here = static_cast<int64_t>(rest - outer * size);
      rest = outer;
      x_at += here * p.x_stride[dim];
      y_at += here * p.y_stride[dim];
      d_at += here * p.d_stride[dim];
    }
    const Compute x = p.x == nullptr ? load_as<Compute>(p.x_type, p.x_value, 0) : load_as<Compute>(p.x_type, p.x, x_at);
    const Compute y = p.y == nullptr ? load_as<Compute>(p.y_type, p.y_value, 0) : load_as<Compute>(p.y_type, p.y, y_at);
    store_as(p.d_type, p.d, d_at, Sum<Compute>::of(x, alpha, y));
  }
}

// p.dims <= 1 with unit strides; whole packs first, the elements after the last pack by the first threads.
template <DType kType>
__global__ void __launch_bounds__(kThreads) add_contiguous(const __grid_constant__ Add p, const int64_t count) {
  using T = typename Element<kType>::Type;
  using Compute = typename Element<kType>::Acc;
  constexpr int kVector = 16 / sizeof(T);
  using Vector = Pack<T, kVector>;
  const auto alpha = Sum<Compute>::alpha(p.alpha);
  const T* x = static_cast<const T*>(p.x);
  const T* y = static_cast<const T*>(p.y);
  T* d = static_cast<T*>(p.d);
  const Compute x_value = x == nullptr ? load_as<Compute>(p.x_type, p.x_value, 0) : Compute{};
  const Compute y_value = y == nullptr ? load_as<Compute>(p.y_type, p.y_value, 0) : Compute{};

  const int64_t packs = count / kVector, step = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = first; i < packs; i += step) {
    Vector xs{}, ys{}, ds;
    if (x != nullptr) xs = load_pack<Vector>(x + i * kVector);
    if (y != nullptr) ys = load_pack<Vector>(y + i * kVector);
#pragma unroll
    for (int v = 0; v < kVector; ++v)
      ds.v[v] = narrow<T>(Sum<Compute>::of(x == nullptr ? x_value : widen<Compute>(xs.v[v]), alpha,
                                           y == nullptr ? y_value : widen<Compute>(ys.v[v])));
    store_pack(d + i * kVector, ds);
  }
  for (int64_t i = packs * kVector + first; i < count; i += step)
    d[i] = narrow<T>(Sum<Compute>::of(x == nullptr ? x_value : widen<Compute>(x[i]), alpha,
                                      y == nullptr ? y_value : widen<Compute>(y[i])));
}

bool is_contiguous(const void* data, DType type, int64_t stride, const Add& p) {
  if (data == nullptr) return true;
  return type == p.d_type && (p.dims == 0 || stride == 1) && reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

unsigned blocks_for(int64_t threads) {
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

template <class Compute>
cudaError_t launch_strided(const Add& p, cudaStream_t stream) {
  const int64_t count = p.numel();
  auto* kernel = count <= INT32_MAX ? &add_strided<Compute, uint32_t> : &add_strided<Compute, uint64_t>;
  return launch_kernel(kernel, dim3(blocks_for(count)), dim3(kThreads), 0, stream, p, count);
}

template <DType kType>
cudaError_t launch_type(const Add& p, bool contiguous, cudaStream_t stream) {
  using Wide = typename Element<kType>::Acc;
  if (!contiguous)
    // Operands wider than the result's 32-bit accumulator may occur (a 0-dim int64 beside an int8), so 64 bits.
    return launch_strided<std::conditional_t<is_integral(kType), uint64_t, Wide>>(p, stream);
  const int64_t count = p.numel(), packs = count / (16 / element_size(kType));
  return launch_kernel(&add_contiguous<kType>, dim3(blocks_for(packs > 0 ? packs : 1)), dim3(kThreads), 0, stream, p,
                       count);
}

}  // namespace

cudaError_t launch_add(const Add& p, cudaStream_t stream) {
  if (p.numel() == 0) return cudaSuccess;
  const bool contiguous = p.dims <= 1 && is_contiguous(p.x, p.x_type, p.x_stride[0], p) &&
                          is_contiguous(p.y, p.y_type, p.y_stride[0], p) &&
                          is_contiguous(p.d, p.d_type, p.d_stride[0], p);
  switch (p.d_type) {
    case DType::f32: return launch_type<DType::f32>(p, contiguous, stream);
    case DType::f64: return launch_type<DType::f64>(p, contiguous, stream);
    case DType::bf16: return launch_type<DType::bf16>(p, contiguous, stream);
    case DType::f16: return launch_type<DType::f16>(p, contiguous, stream);
    case DType::c64: return launch_type<DType::c64>(p, contiguous, stream);
    case DType::c128: return launch_type<DType::c128>(p, contiguous, stream);
    case DType::i8: return launch_type<DType::i8>(p, contiguous, stream);
    case DType::u8: return launch_type<DType::u8>(p, contiguous, stream);
    case DType::i16: return launch_type<DType::i16>(p, contiguous, stream);
    case DType::i32: return launch_type<DType::i32>(p, contiguous, stream);
    case DType::i64: return launch_type<DType::i64>(p, contiguous, stream);
    case DType::boolean: return launch_strided<bool>(p, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
