// The activations of the epilogue, one element at a time, in the accumulator's arithmetic.
//
//   relu       max(x, 0) of the stored dtype; NaN stays NaN
//   gelu       x (1 + erf(x / sqrt(2))) / 2
//   gelu_tanh  x (1 + tanh(u)) / 2 = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
//   silu       x / (1 + exp(-x))
#pragma once
#include <type_traits>

#include "../element.cuh"
#include "fast_math.cuh"

namespace myops {

__device__ __forceinline__ float erf_of(float x) { return erff(x); }
__device__ __forceinline__ double erf_of(double x) { return erf(x); }
__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }

// For what is rounded to 16 bits: within 6e-6 of it, relatively, at a fifth of the instructions; what is below 1e-36
// may be 0. erfc(z) exp(z^2) is t times a polynomial in t = 1 / (1 + 0.44 z), fitted for the smallest relative error
// where z <= 12.
template <Activation kActivation>
__device__ __forceinline__ float activate_fast(float x) {
  constexpr float kLog2E = 1.44269504f;
  if (kActivation == Activation::relu) return x < 0.0f ? 0.0f : x;
  if (kActivation == Activation::gelu) {
    const float t = fast_reciprocal(fmaf(0.44f * 0.70710678f, fabsf(x), 1.0f));
    float p = -0.14610435f;
    p = fmaf(t, p, 0.35064919f);
    p = fmaf(t, p, 0.04073422f);
    p = fmaf(t, p, 0.26358496f);
    p = fmaf(t, p, 0.24256983f);
    p = fmaf(t, p, 0.24856099f);
    const float half_erfc = p * t * fast_exp2(fmaf(x, -0.5f * kLog2E * x, -1.0f)), tail = x * half_erfc;
    return x < 0.0f ? tail : x > 16.0f ? x : x - tail;  // infinity times 0 would be a NaN
  }
  const float y = kActivation == Activation::silu ? x : x * fmaf(0.07135481627f * x, x, 1.5957691216f);
  return x * fast_reciprocal(1.0f + fast_exp2(-kLog2E * y));
}
// f of each. One uniform choice for all of them.
template <int kCount>
__device__ __forceinline__ void activate_fast(float (&x)[kCount], Activation f) {
  const auto all = [&](auto one) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[i] = one(x[i]);
  };
  switch (f) {
    case Activation::relu: return all([](float v) { return activate_fast<Activation::relu>(v); });
    case Activation::gelu: return all([](float v) { return activate_fast<Activation::gelu>(v); });
    case Activation::gelu_tanh: return all([](float v) { return activate_fast<Activation::gelu_tanh>(v); });
    case Activation::silu: return all([](float v) { return activate_fast<Activation::silu>(v); });
    default: return;
  }
}

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
