// The activations of the epilogue, one element at a time, in the accumulator's arithmetic.
//
//   relu       max(x, 0) of the stored dtype; NaN stays NaN
//   gelu       x (1 + erf(x / sqrt(2))) / 2
//   gelu_tanh  x (1 + tanh(u)) / 2 = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
//   silu       x / (1 + exp(-x))
#pragma once
#include <type_traits>

#include "../element.cuh"

namespace myops {

__device__ __forceinline__ float erf_of(float x) { return erff(x); }
__device__ __forceinline__ double erf_of(double x) { return erf(x); }
__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }

template <class Acc>
__device__ __forceinline__ Acc activate_real(Acc x, Activation f) {
  if (f == Activation::relu) return x < Acc(0) ? Acc(0) : x;
  if (f == Activation::gelu) return Acc(0.5) * x * (Acc(1) + erf_of(x * Acc(0.70710678118654752440)));
  const Acc y = f == Activation::silu ? x : x * (Acc(1.5957691216057307118) + Acc(0.07135481627260024878) * x * x);
  return x / (Acc(1) + exp_of(-y));
}

// f of x, which is about to be stored as Stored. Integers have relu only and are summed unsigned; complex has none.
template <class Stored, class Acc>
__device__ __forceinline__ Acc activate(Acc x, Activation) {
  if constexpr (std::is_signed_v<Stored>) return static_cast<Stored>(x) < 0 ? Acc(0) : x;
  return x;
}
template <class Stored>
__device__ __forceinline__ float activate(float x, Activation f) {
  return activate_real(x, f);
}
template <class Stored>
__device__ __forceinline__ double activate(double x, Activation f) {
  return activate_real(x, f);
}
template <class Stored, class T>
__device__ __forceinline__ Complex<T> activate(Complex<T> x, Activation) {
  return x;
}

}  // namespace myops
