// The verbs of AVX-512 F, BW, DQ and VL: 64-byte vectors, 32 registers, masked loads and stores; and, for gathers of
// short rows, of vectors half as wide.
#pragma once
#include <immintrin.h>

#include "portable.h"

namespace myops::cpu {

struct Avx512Half : Portable<32> {
  static constexpr bool kMaskedLoads = true, kLaneMasks = true, kHalf = true, kFours = true;
  using Portable<32>::widen;
  using Portable<32>::narrow;

  template <class T>
  static inline Vec<T> load_masked(const T* p, uint64_t lanes) {
    static_assert(sizeof(T) >= 4);
    if constexpr (sizeof(T) == 4)
      return reinterpret_cast<Vec<T>>(_mm256_maskz_loadu_epi32(static_cast<__mmask8>(lanes), p));
    else
      return reinterpret_cast<Vec<T>>(_mm256_maskz_loadu_epi64(static_cast<__mmask8>(lanes), p));
  }
  template <class T>
  static inline Vec<T> load_partial(const T* p, int n) {
    return load_masked<T>(p, (1u << n) - 1);
  }
  template <class T>
  static inline void store_partial(T* p, Vec<T> v, int n) {
    static_assert(sizeof(T) >= 4);
    if constexpr (sizeof(T) == 4)
      _mm256_mask_storeu_epi32(p, static_cast<__mmask8>((1u << n) - 1), reinterpret_cast<__m256i>(v));
    else
      _mm256_mask_storeu_epi64(p, static_cast<__mmask8>((1u << n) - 1), reinterpret_cast<__m256i>(v));
  }

  static inline Vec<float> load_four(const float* p) {
    return reinterpret_cast<Vec<float>>(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(p)));
  }
  template <int Which>
  static inline Vec<float> one_of_four(Vec<float> v) {
    return reinterpret_cast<Vec<float>>(_mm256_permute_ps(reinterpret_cast<__m256>(v), 0x55 * Which));
  }

  // Of n numbers that have half a vector or less.
  template <class S>
  static inline __mmask16 bytes_of(int n) {
    return static_cast<__mmask16>((1u << (n * static_cast<int>(sizeof(S)))) - 1);
  }
  template <class To, class From>
  static inline Vec<To> widen_integers_partial(const From* p, int n) {
    const __m128i bits = _mm_maskz_loadu_epi8(bytes_of<From>(n), p);
    typename VectorOf<From, lanes<To> * sizeof(From)>::type v;
    std::memcpy(&v, &bits, sizeof(v));
    return convert_lanes<To, From, lanes<To>>(v);
  }
  static inline Vec<float> widen_bits(__m128i v, bf16) {
    return reinterpret_cast<Vec<float>>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
  }
  static inline Vec<float> widen_bits(__m128i v, f16) { return reinterpret_cast<Vec<float>>(_mm256_cvtph_ps(v)); }
  static inline Vec<float> widen(const f16* p) { return widen_partial(p, lanes<float>); }
  template <class S>
  static inline Vec<float> widen_partial(const S* p, int n) {
    return widen_bits(_mm_maskz_loadu_epi8(bytes_of<S>(n), p), S{});
  }
  template <class S, class V>
  static inline void store_first(S* p, V v, int n) {
    __m128i bits = _mm_setzero_si128();
    std::memcpy(&bits, &v, sizeof(v));
    _mm_mask_storeu_epi8(p, bytes_of<S>(n), bits);
  }
  static inline Halves narrow(f16, Vec<float> v) {
    return reinterpret_cast<Halves>(
        _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

struct Avx512 : Portable<64> {
  using Base = Avx512;  // of the levels above too
  using Half = Avx512Half;
  static constexpr bool kMaskedLoads = true, kLaneMasks = true, kFours = true, kBf16Dot = false, kInt8Dot = false;
  static constexpr int kPanelVectors = 4, kDotRows = 4;
  using Portable<64>::widen;
  using Portable<64>::narrow;

  // The lanes whose bits are set, the rest 0.
  template <class T>
  static inline Vec<T> load_masked(const T* p, uint64_t lanes) {
    if constexpr (sizeof(T) == 1)
      return reinterpret_cast<Vec<T>>(_mm512_maskz_loadu_epi8(static_cast<__mmask64>(lanes), p));
    else if constexpr (sizeof(T) == 2)
      return reinterpret_cast<Vec<T>>(_mm512_maskz_loadu_epi16(static_cast<__mmask32>(lanes), p));
    else if constexpr (sizeof(T) == 4)
      return reinterpret_cast<Vec<T>>(_mm512_maskz_loadu_epi32(static_cast<__mmask16>(lanes), p));
    else
      return reinterpret_cast<Vec<T>>(_mm512_maskz_loadu_epi64(static_cast<__mmask8>(lanes), p));
  }
  template <class T>
  static inline Vec<T> load_partial(const T* p, int n) {
    return load_masked<T>(p, n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1);
  }
  template <class T>
  static inline void store_partial(T* p, Vec<T> v, int n) {
    if constexpr (sizeof(T) == 1)
      _mm512_mask_storeu_epi8(p, n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1, reinterpret_cast<__m512i>(v));
    else if constexpr (sizeof(T) == 2)
      _mm512_mask_storeu_epi16(p, static_cast<__mmask32>((uint64_t{1} << n) - 1), reinterpret_cast<__m512i>(v));
    else if constexpr (sizeof(T) == 4)
      _mm512_mask_storeu_epi32(p, static_cast<__mmask16>((1u << n) - 1), reinterpret_cast<__m512i>(v));
    else
      _mm512_mask_storeu_epi64(p, static_cast<__mmask8>((1u << n) - 1), reinterpret_cast<__m512i>(v));
  }
  static inline Vec<float> load_four(const float* p) {
    return reinterpret_cast<Vec<float>>(_mm512_broadcast_f32x4(_mm_loadu_ps(p)));
  }
  template <int Which>
  static inline Vec<float> one_of_four(Vec<float> v) {
    return reinterpret_cast<Vec<float>>(_mm512_permute_ps(reinterpret_cast<__m512>(v), 0x55 * Which));
  }
  template <class To, class From>
  static inline Vec<To> widen_integers(const From* p) {
    if constexpr (sizeof(From) == 1 && sizeof(To) == 4) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
      return reinterpret_cast<Vec<To>>(std::is_signed_v<From> ? _mm512_cvtepi8_epi32(bytes)
                                                              : _mm512_cvtepu8_epi32(bytes));
    } else if constexpr (sizeof(From) == 1 && sizeof(To) == 2) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
      return reinterpret_cast<Vec<To>>(std::is_signed_v<From> ? _mm512_cvtepi8_epi16(bytes)
                                                              : _mm512_cvtepu8_epi16(bytes));
    } else {
      return Portable<64>::widen_integers<To>(p);
    }
  }
  template <class S, class T>
  static inline auto narrow_integers(Vec<T> v) {
    return __builtin_convertvector(v, typename VectorOf<S, lanes<T> * sizeof(S)>::type);
  }
  template <class To, class From>
  static inline Vec<To> widen_integers_partial(const From* p, int n) {
    if constexpr (sizeof(From) == 1 && sizeof(To) == 4) {
      const __m128i bytes = _mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << n) - 1), p);
      return reinterpret_cast<Vec<To>>(std::is_signed_v<From> ? _mm512_cvtepi8_epi32(bytes)
                                                              : _mm512_cvtepu8_epi32(bytes));
    } else if constexpr (sizeof(From) == 1 && sizeof(To) == 2) {
      const __m256i bytes = _mm256_maskz_loadu_epi8(static_cast<__mmask32>((uint64_t{1} << n) - 1), p);
      return reinterpret_cast<Vec<To>>(std::is_signed_v<From> ? _mm512_cvtepi8_epi16(bytes)
                                                              : _mm512_cvtepu8_epi16(bytes));
    } else if constexpr (sizeof(From) == 2 && sizeof(To) == 4) {
      const __m256i shorts = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p);
      return reinterpret_cast<Vec<To>>(std::is_signed_v<From> ? _mm512_cvtepi16_epi32(shorts)
                                                              : _mm512_cvtepu16_epi32(shorts));
    } else {
      return Portable<64>::widen_integers_partial<To>(p, n);
    }
  }
  static inline Vec<float> widen(const f16* p) {
    return reinterpret_cast<Vec<float>>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
  }
  static inline Vec<float> widen_partial(const f16* p, int n) {
    const __m256i half = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p);
    return reinterpret_cast<Vec<float>>(_mm512_cvtph_ps(half));
  }
  static inline Vec<float> widen_partial(const bf16* p, int n) {
    const __m256i half = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p);
    return reinterpret_cast<Vec<float>>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  template <class S, class V>
  static inline void store_first(S* p, V v, int n) {
    if constexpr (sizeof(V) == 32 && sizeof(S) == 2)
      _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), reinterpret_cast<__m256i>(v));
    else if constexpr (sizeof(V) == 32 && sizeof(S) == 1)
      _mm256_mask_storeu_epi8(p, static_cast<__mmask32>((uint64_t{1} << n) - 1), reinterpret_cast<__m256i>(v));
    else if constexpr (sizeof(V) == 16 && sizeof(S) == 1)
      _mm_mask_storeu_epi8(p, static_cast<__mmask16>((1u << n) - 1), reinterpret_cast<__m128i>(v));
    else
      Portable<64>::store_first(p, v, n);
  }
  static inline Vec<uint32_t> dot_i16(Vec<uint32_t> acc, Vec<uint32_t> a, Vec<uint32_t> b) {
    return acc + reinterpret_cast<Vec<uint32_t>>(
                     _mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
  }
  static inline Halves narrow(f16, Vec<float> v) {
    return reinterpret_cast<Halves>(
        _mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

}  // namespace myops::cpu
