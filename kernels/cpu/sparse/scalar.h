// One switch from a dtype to the types that are stored and computed in, and complex arithmetic for the engines that
// work entry by entry.
#pragma once
#include "../../sparse_view.h"
#include "../gemm/types.h"

namespace myops::cpu {

template <class T>
static inline Complex<T> operator*(Complex<T> a, Complex<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class T>
static inline Complex<T>& operator+=(Complex<T>& a, Complex<T> b) {
  a.re += b.re, a.im += b.im;
  return a;
}

// Scalar types; and the types of a lane, of which a complex number takes two.
template <class T, class S>
struct Types {
  using Compute = T;
  using Stored = S;
  using Lane = T;
  using StoredLane = S;
  static constexpr bool kComplex = false;
};
template <class T>
struct Types<Complex<T>, Complex<T>> {
  using Compute = Complex<T>;
  using Stored = Complex<T>;
  using Lane = T;
  using StoredLane = T;
  static constexpr bool kComplex = true;
};

// body(Types<compute, stored>{}) of a floating type.
template <class Body>
auto with_floating_types(DType type, const Body& body) {
  switch (type) {
    case DType::f32: return body(Types<float, float>{});
    case DType::f64: return body(Types<double, double>{});
    case DType::bf16: return body(Types<float, bf16>{});
    case DType::f16: return body(Types<float, f16>{});
    case DType::c64: return body(Types<Complex<float>, Complex<float>>{});
    default: return body(Types<Complex<double>, Complex<double>>{});
  }
}

// Of any type but bool, for sums that nothing divides. Integers are computed modulo a power of two, of bytes as much as
// is written, which their sign does not change.
template <class Body>
auto with_sum_types(DType type, const Body& body) {
  switch (type) {
    case DType::i8:
    case DType::u8: return body(Types<uint32_t, uint8_t>{});
    case DType::i16: return body(Types<uint32_t, int16_t>{});
    case DType::i32: return body(Types<uint32_t, uint32_t>{});
    case DType::i64: return body(Types<uint64_t, uint64_t>{});
    default: return with_floating_types(type, body);
  }
}

// The same of sums that a mean divides: bytes keep the sign that widens them.
template <class Body>
auto with_types(DType type, const Body& body) {
  return type == DType::i8 ? body(Types<uint32_t, int8_t>{}) : with_sum_types(type, body);
}

}  // namespace myops::cpu
