// Scalars of the engines that work entry by entry: complex numbers as plain pairs (std::complex multiplies with a check
// for infinities), and one switch from a dtype to the types that are stored and computed in.
#pragma once
#include "../../sparse_view.h"
#include "../gemm/types.h"

namespace myops::cpu {

template <class T>
struct Pair {
  T re, im;
  friend Pair operator*(Pair a, Pair b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
  Pair& operator+=(Pair b) {
    re += b.re, im += b.im;
    return *this;
  }
};

template <class T, class S>
struct Types {
  using Compute = T;
  using Stored = S;
};

// body(Types<compute, stored>{}).
template <class Body>
auto with_types(DType type, const Body& body) {
  switch (type) {
    case DType::f32: return body(Types<float, float>{});
    case DType::f64: return body(Types<double, double>{});
    case DType::bf16: return body(Types<float, bf16>{});
    case DType::f16: return body(Types<float, f16>{});
    case DType::c64: return body(Types<Pair<float>, Pair<float>>{});
    case DType::c128: return body(Types<Pair<double>, Pair<double>>{});
    case DType::i8:
    case DType::u8: return body(Types<uint32_t, uint8_t>{});  // modular: the sign does not matter
    case DType::i16: return body(Types<uint32_t, uint16_t>{});
    case DType::i32: return body(Types<uint32_t, uint32_t>{});
    default: return body(Types<uint64_t, uint64_t>{});
  }
}

}  // namespace myops::cpu
