// The verbs of AVX-512 with BF16 and VNNI: dot products of pairs of bfloat16 and quadruples of bytes.
#pragma once
#include "avx512.h"
#include "engine.h"

namespace myops::cpu {

struct Avx512Bf16 : Avx512 {
  static constexpr bool kBf16Dot = true, kInt8Dot = true;

  using Avx512::narrow;

  // Subnormals become zero, as in the dot product itself.
  static inline Halves narrow(bf16, Vec<float> v) {
    return reinterpret_cast<Halves>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(v)));
  }
  static inline Vec<uint32_t> dot_i8(Vec<uint32_t> acc, Vec<uint32_t> a, Vec<uint32_t> b) {
    return reinterpret_cast<Vec<uint32_t>>(_mm512_dpbusd_epi32(
        reinterpret_cast<__m512i>(acc), reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
  }
  static inline Vec<uint32_t> dot_i16(Vec<uint32_t> acc, Vec<uint32_t> a, Vec<uint32_t> b) {
    return reinterpret_cast<Vec<uint32_t>>(_mm512_dpwssd_epi32(
        reinterpret_cast<__m512i>(acc), reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
  }
  static inline Vec<float> dot_bf16(Vec<float> acc, Vec<uint32_t> a, Vec<uint32_t> b) {
    return reinterpret_cast<Vec<float>>(
        _mm512_dpbf16_ps(reinterpret_cast<__m512>(acc), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
  }
};

// What needs nothing that this level adds, avx512.cpp has the kernels of.
MYOPS_KERNELS_OF(extern template, Avx512)

}  // namespace myops::cpu
