// Element types on the device and the verbs that the kernels are written in: widen, narrow, multiply_add, scale_add.
//
// The accumulator of a dtype: float for 16-bit floats, so that a result is rounded once; uint32_t or uint64_t for
// integers, whose sums are modular (signed overflow would be undefined); the dtype itself for the others.
#pragma once
#include "../matrix_view.h"
#include "launch.h"

namespace myops {

template <class T>
struct alignas(2 * sizeof(T)) Complex {
  T re, im;
};

// The C++ type, the accumulator, and the wide result type (gemm_entry.h: out_dtype) of a dtype.
template <class T, class AccOf = T, class WideOf = T>
struct Types {
  using Type = T;
  using Acc = AccOf;
  using Wide = WideOf;
};
template <DType kType>
struct Element;
template <>
struct Element<DType::f32> : Types<float> {};
template <>
struct Element<DType::f64> : Types<double> {};
template <>
struct Element<DType::bf16> : Types<__nv_bfloat16, float, float> {};
template <>
struct Element<DType::f16> : Types<__half, float, float> {};
template <>
struct Element<DType::c64> : Types<Complex<float>> {};
template <>
struct Element<DType::c128> : Types<Complex<double>> {};
template <>
struct Element<DType::i8> : Types<int8_t, uint32_t, int32_t> {};
template <>
struct Element<DType::u8> : Types<uint8_t, uint32_t, int32_t> {};
template <>
struct Element<DType::i16> : Types<int16_t, uint32_t> {};
template <>
struct Element<DType::i32> : Types<int32_t, uint32_t> {};
template <>
struct Element<DType::i64> : Types<int64_t, uint64_t> {};

// widen<To>(x): an element in its accumulator's type; exact.
template <class To>
__device__ __forceinline__ To widen(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
template <class To>
__device__ __forceinline__ To widen(__half x) {
  return __half2float(x);
}
template <class To, class From>
__device__ __forceinline__ To widen(From x) {
  return static_cast<To>(x);  // int8_t to uint32_t extends the sign, as modular arithmetic wants
}

// N neighbours moved by one instruction where N * sizeof(T) <= 16.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  T v[N];
};

// narrow<To>(x): an accumulator rounded to an element, to nearest even for floats, modulo the width for integers.
template <class To>
struct Narrow {
  template <class From>
  __device__ __forceinline__ static To of(From x) {
    return static_cast<To>(x);
  }
};
template <>
struct Narrow<__nv_bfloat16> {
  __device__ __forceinline__ static __nv_bfloat16 of(float x) { return __float2bfloat16_rn(x); }
};
template <>
struct Narrow<__half> {
  __device__ __forceinline__ static __half of(float x) { return __float2half_rn(x); }
};
template <class To, class From>
__device__ __forceinline__ To narrow(From x) {
  return Narrow<To>::of(x);
}

// Two neighbours.
template <class To>
__device__ __forceinline__ Pack<To, 2> narrow_two(float x, float y) {
  return {{narrow<To>(x), narrow<To>(y)}};
}

// acc += a * b. Fused by name, not by the compiler's choice, so that every tile size gives the same bits.
__device__ __forceinline__ void multiply_add(float& acc, float a, float b) { acc = fmaf(a, b, acc); }
__device__ __forceinline__ void multiply_add(double& acc, double a, double b) { acc = fma(a, b, acc); }
__device__ __forceinline__ void multiply_add(uint32_t& acc, uint32_t a, uint32_t b) { acc += a * b; }
__device__ __forceinline__ void multiply_add(uint64_t& acc, uint64_t a, uint64_t b) { acc += a * b; }
template <class T>
__device__ __forceinline__ void multiply_add(Complex<T>& acc, Complex<T> a, Complex<T> b) {
  multiply_add(acc.re, a.re, b.re);
  multiply_add(acc.im, a.re, b.im);
  multiply_add(acc.re, -a.im, b.im);
  multiply_add(acc.im, a.im, b.re);
}

// acc += a * conj(b), in the order of multiply_add with the conjugate.
template <class T>
__device__ __forceinline__ void multiply_add_conj(Complex<T>& acc, Complex<T> a, Complex<T> b) {
  multiply_add(acc.re, a.re, b.re);
  multiply_add(acc.im, a.re, -b.im);
  multiply_add(acc.re, a.im, b.im);
  multiply_add(acc.im, a.im, b.re);
}

// alpha and beta in the accumulator's arithmetic. Integers go through int64_t, which keeps negative values modular.
template <class Acc>
struct Scalar {
  using Type = Acc;
  __device__ __forceinline__ static Type of(double value) { return static_cast<Type>(value); }
};
template <>
struct Scalar<uint32_t> {
  using Type = uint32_t;
  __device__ __forceinline__ static Type of(double value) {
    return static_cast<uint32_t>(static_cast<uint64_t>(static_cast<int64_t>(value)));
  }
};
template <>
struct Scalar<uint64_t> {
  using Type = uint64_t;
  __device__ __forceinline__ static Type of(double value) { return static_cast<uint64_t>(static_cast<int64_t>(value)); }
};
template <class T>
struct Scalar<Complex<T>> : Scalar<T> {};

// scale(alpha, x) and scale_add(alpha, x, y) = alpha * x + y with a real alpha.
template <class T>
__device__ __forceinline__ T scale(T alpha, T x) {
  return alpha * x;
}
template <class T>
__device__ __forceinline__ Complex<T> scale(T alpha, Complex<T> x) {
  return {alpha * x.re, alpha * x.im};
}
template <class T>
__device__ __forceinline__ T scale_add(T alpha, T x, T y) {
  multiply_add(y, alpha, x);
  return y;
}
template <class T>
__device__ __forceinline__ Complex<T> scale_add(T alpha, Complex<T> x, Complex<T> y) {
  return {scale_add(alpha, x.re, y.re), scale_add(alpha, x.im, y.im)};
}

template <class T>
__device__ __forceinline__ T conjugate_if(bool, T x) {
  return x;
}
template <class T>
__device__ __forceinline__ Complex<T> conjugate_if(bool conj, Complex<T> x) {
  return {x.re, conj ? -x.im : x.im};
}

}  // namespace myops
