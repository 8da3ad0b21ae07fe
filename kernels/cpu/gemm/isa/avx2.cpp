// AVX2 with FMA and F16C: 32-byte vectors, 16 registers. Masks for lanes of 32 and 64 bits; shorter ones are moved by
// words, because a memcpy of a length that is not known is a call.
#include <immintrin.h>

#include "engine.h"
#include "portable.h"

namespace myops::cpu {
namespace {

struct Avx2 : Portable<32> {
  using Base = Avx2;
  static constexpr bool kMaskedLoads = false, kLaneMasks = true, kBf16Dot = false, kInt8Dot = false;
  static constexpr int kPanelVectors = 2, kDotRows = 2;
  using Portable<32>::narrow;

  // The first n bytes from p, n <= 16, the rest 0.
  static inline __m128i load_bytes(const void* from, int n) {
    const char* p = static_cast<const char*>(from);
    uint64_t low = 0, high = 0;
    if (n >= 8) {  // words that overlap
      std::memcpy(&low, p, 8);
      std::memcpy(&high, p + n - 8, 8);
      high = n > 8 ? high >> (8 * (16 - n)) : 0;
    } else if (n >= 4) {
      uint32_t first, last;
      std::memcpy(&first, p, 4);
      std::memcpy(&last, p + n - 4, 4);
      low = first | static_cast<uint64_t>(last) << (8 * (n - 4));
    } else {
      uint16_t first = 0;
      if (n & 2) std::memcpy(&first, p, 2);
      low = n & 1 ? first | static_cast<uint64_t>(static_cast<uint8_t>(p[n - 1])) << (8 * (n - 1)) : first;
    }
    return _mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low));
  }
  static inline void store_bytes(void* to, __m128i v, int n) {
    char* p = static_cast<char*>(to);
    if (n >= 16) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v);
    uint64_t word = static_cast<uint64_t>(_mm_cvtsi128_si64(v));
    if (n & 8) {
      std::memcpy(p, &word, 8);
      p += 8, word = static_cast<uint64_t>(_mm_extract_epi64(v, 1));
    }
    for (int size = 4; size > 0; size /= 2)
      if (n & size) {
        std::memcpy(p, &word, size);
        p += size, word >>= 8 * size;
      }
  }
  template <class T>
  static inline __m256i first_lanes(int n) {
    static_assert(sizeof(T) >= 4);
    if constexpr (sizeof(T) == 4)
      return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    else
      return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
  }
  // The lanes whose signs are set.
  template <class T>
  static inline Vec<T> load_signed(const T* p, __m256i signs) {
    if constexpr (sizeof(T) == 4)
      return reinterpret_cast<Vec<T>>(_mm256_maskload_epi32(reinterpret_cast<const int*>(p), signs));
    else
      return reinterpret_cast<Vec<T>>(_mm256_maskload_epi64(reinterpret_cast<const long long*>(p), signs));
  }
  template <class T>
  static inline Vec<T> load_masked(const T* p, uint16_t bits) {
    static_assert(sizeof(T) >= 4);
    const __m256i all = _mm256_set1_epi16(static_cast<int16_t>(bits));
    if constexpr (sizeof(T) == 4)
      return load_signed(p, _mm256_sllv_epi32(all, _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24)));
    else
      return load_signed(p, _mm256_sllv_epi64(all, _mm256_setr_epi64x(63, 62, 61, 60)));
  }
  template <class T>
  static inline Vec<T> load_partial(const T* p, int n) {
    if constexpr (sizeof(T) >= 4) {
      return load_signed(p, first_lanes<T>(n));
    } else {
      const int bytes = n * static_cast<int>(sizeof(T));
      const __m128i low = load_bytes(p, bytes < 16 ? bytes : 16);
      const __m128i high = bytes > 16 ? load_bytes(p + 16 / sizeof(T), bytes - 16) : _mm_setzero_si128();
      return reinterpret_cast<Vec<T>>(_mm256_set_m128i(high, low));
    }
  }
  template <class T>
  static inline void store_partial(T* p, Vec<T> v, int n) {
    const __m256i bits = reinterpret_cast<__m256i>(v);
    const int bytes = n * static_cast<int>(sizeof(T));
    store_bytes(p, _mm256_castsi256_si128(bits), bytes < 16 ? bytes : 16);
    if (bytes > 16) store_bytes(p + 16 / sizeof(T), _mm256_extracti128_si256(bits, 1), bytes - 16);
  }
  template <class S, class V>
  static inline void store_first(S* p, V v, int n) {
    if constexpr (sizeof(V) == 16)
      store_bytes(p, reinterpret_cast<__m128i>(v), n * static_cast<int>(sizeof(S)));
    else if constexpr (sizeof(V) == 8)
      store_bytes(p, _mm_set_epi64x(0, reinterpret_cast<int64_t>(v)), n * static_cast<int>(sizeof(S)));
    else
      Portable<32>::store_first(p, v, n);
  }

  template <class To, class From>
  static inline Vec<To> widen_lanes_of(__m128i v) {
    constexpr bool kSigned = std::is_signed_v<From>;
    if constexpr (sizeof(From) == 1 && sizeof(To) == 2)
      return reinterpret_cast<Vec<To>>(kSigned ? _mm256_cvtepi8_epi16(v) : _mm256_cvtepu8_epi16(v));
    else if constexpr (sizeof(From) == 1)
      return reinterpret_cast<Vec<To>>(kSigned ? _mm256_cvtepi8_epi32(v) : _mm256_cvtepu8_epi32(v));
    else
      return reinterpret_cast<Vec<To>>(kSigned ? _mm256_cvtepi16_epi32(v) : _mm256_cvtepu16_epi32(v));
  }
  template <class To, class From>
  static inline Vec<To> widen_integers(const From* p) {
    if constexpr (sizeof(From) >= sizeof(To) || sizeof(To) > 4)
      return Portable<32>::widen_integers<To>(p);
    else if constexpr (lanes<To> * sizeof(From) == 8)
      return widen_lanes_of<To, From>(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    else
      return widen_lanes_of<To, From>(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  template <class To, class From>
  static inline Vec<To> widen_integers_partial(const From* p, int n) {
    if constexpr (sizeof(From) >= sizeof(To) || sizeof(To) > 4)
      return Portable<32>::widen_integers_partial<To>(p, n);
    else
      return widen_lanes_of<To, From>(load_bytes(p, n * static_cast<int>(sizeof(From))));
  }
  static inline Vec<float> widen_bits(__m128i v, bf16) {
    return reinterpret_cast<Vec<float>>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
  }
  static inline Vec<float> widen_bits(__m128i v, f16) { return reinterpret_cast<Vec<float>>(_mm256_cvtph_ps(v)); }
  template <class S>
  static inline Vec<float> widen(const S* p) {
    return widen_bits(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), S{});
  }
  template <class S>
  static inline Vec<float> widen_partial(const S* p, int n) {
    return widen_bits(load_bytes(p, n * static_cast<int>(sizeof(S))), S{});
  }
  // By name: gcc 12 takes the form that overwrites a factor as well, and then moves sums from register to register.
  template <class T>
  static inline Vec<T> add_product(Vec<T> acc, T a, Vec<T> b) {
    const Vec<T> factor = a - Vec<T>{};
    if constexpr (std::is_same_v<T, float>)
      asm("vfmadd231ps %2, %1, %0" : "+x"(acc) : "x"(factor), "x"(b));
    else if constexpr (std::is_same_v<T, double>)
      asm("vfmadd231pd %2, %1, %0" : "+x"(acc) : "x"(factor), "x"(b));
    else
      acc += factor * b;
    return acc;
  }
  static inline Vec<uint32_t> dot_i16(Vec<uint32_t> acc, Vec<uint32_t> a, Vec<uint32_t> b) {
    return acc + reinterpret_cast<Vec<uint32_t>>(
                     _mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
  }
  static inline Halves narrow(f16, Vec<float> v) {
    return reinterpret_cast<Halves>(
        _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

}  // namespace

const Engine kAvx2 = make_engine<Avx2, Level::avx2>();

}  // namespace myops::cpu
