// The verbs of an ISA level in portable C++, over vectors of the given width. Levels override what they do better.
//
//   load_partial<T>(p, n)      first n lanes from p, the rest 0; nothing behind p[n - 1] is touched
//   store_partial<T>(p, v, n)  first n lanes to p
//   widen / widen_partial      16-bit floats to float32
//   widen_integers<To>(p)      a vector of shorter integers; widen_integers_partial<To>(p, n): n lanes, the rest 0
//   narrow(S{}, v)             float32 as the bits of 16-bit floats S, round to nearest even
//   narrow_integers<S, T>(v)   the low bits of the lanes as shorter integers
//   store_first(p, v, n)       n elements of what was narrowed
//   add_product(acc, a, b)     acc + a * b, a scalar a
//   dot_i8(acc, a, b)          acc + four products of unsigned bytes of a with signed bytes of b (where kInt8Dot)
//   dot_i16(acc, a, b)         acc + a.lo * b.lo + a.hi * b.hi for each 32-bit lane holding a pair of int16
//   dot_bf16(acc, a, b)        acc + a.lo * b.lo + a.hi * b.hi for each 32-bit lane holding a pair of bfloat16
#pragma once
#include "../types.h"

namespace myops::cpu {

template <int Bytes>
struct Portable {
  static constexpr int kBytes = Bytes;
  static constexpr bool kMatrixUnit = false;  // what kLevels is checked against
  static constexpr bool kLaneMasks = false;   // else load_masked<T> takes the lanes of 4 or 8 bytes whose bits are set
  static constexpr bool kHalf = false;        // whether it is the Half of another
  static constexpr bool kFours = false;  // else load_four(p) repeats p[0 .. 3] and one_of_four<i>(v) is one of them
  using Half = void;                     // the same in vectors half as wide, for gathers of short rows
  template <class T>
  using Vec = typename VectorOf<T, Bytes>::type;
  using Halves = typename VectorOf<uint16_t, Bytes / 2>::type;
  template <class T>
  static constexpr int lanes = Bytes / static_cast<int>(sizeof(T));

  template <class T>
  static inline Vec<T> load(const T* p) {
    return *reinterpret_cast<const typename VectorOf<T, Bytes>::unaligned*>(p);
  }
  template <class T>
  static inline void store(T* p, Vec<T> v) {
    *reinterpret_cast<typename VectorOf<T, Bytes>::unaligned*>(p) = v;
  }
  template <class T>
  static inline Vec<T> load_partial(const T* p, int n) {
    Vec<T> v = {};
    if constexpr (lanes<T> > 4)
      std::memcpy(&v, p, n * sizeof(T));
    else  // no call: this is in the loop of a tile
#pragma GCC unroll 4
      for (int i = 0; i < lanes<T>; ++i)
        if (i < n) v[i] = p[i];
    return v;
  }
  template <class T>
  static inline void store_partial(T* p, Vec<T> v, int n) {
    if constexpr (lanes<T> > 4)
      std::memcpy(p, &v, n * sizeof(T));
    else
#pragma GCC unroll 4
      for (int i = 0; i < lanes<T>; ++i)
        if (i < n) p[i] = v[i];
  }
  template <class T>
  static inline Vec<T> add_product(Vec<T> acc, T a, Vec<T> b) {
    return acc + a * b;
  }
  template <class To, class From>
  static inline Vec<To> widen_integers(const From* p) {
    typename VectorOf<From, lanes<To> * sizeof(From)>::type v;
    std::memcpy(&v, p, sizeof(v));
    return convert_lanes<To, From, lanes<To>>(v);
  }
  template <class To, class From>
  static inline Vec<To> widen_integers_partial(const From* p, int n) {
    From whole[lanes<To>] = {};
#pragma GCC unroll 16
    for (int i = 0; i < lanes<To>; ++i)
      if (i < n) whole[i] = p[i];
    return widen_integers<To>(whole);
  }
  static inline Vec<float> widen(const bf16* p) {
    Halves h;
    std::memcpy(&h, p, sizeof(h));
    const Vec<uint32_t> bits = __builtin_convertvector(h, Vec<uint32_t>) << 16;
    return reinterpret_cast<Vec<float>>(bits);
  }
  static inline Vec<float> widen(const f16* p) {
    Vec<float> v;
    for (int i = 0; i < lanes<float>; ++i) v[i] = to_float(p[i]);
    return v;
  }
  template <class S>
  static inline Vec<float> widen_partial(const S* p, int n) {
    Vec<float> v = {};
    for (int i = 0; i < n; ++i) v[i] = to_float(p[i]);
    return v;
  }
  template <class S, class V>
  static inline void store_first(S* p, V v, int n) {
    std::memcpy(p, &v, n * sizeof(S));
  }
  static inline Halves narrow(bf16, Vec<float> v) {
    const Vec<uint32_t> bits = reinterpret_cast<Vec<uint32_t>>(v);
    Vec<uint32_t> rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Vec<uint32_t> quiet = (bits >> 16) | 0x40u;
    const auto is_nan = v != v;
    rounded = (reinterpret_cast<Vec<uint32_t>>(is_nan) & quiet) | (~reinterpret_cast<Vec<uint32_t>>(is_nan) & rounded);
    return __builtin_convertvector(rounded, Halves);
  }
  static inline Halves narrow(f16, Vec<float> v) {
    Halves h = {};
    for (int i = 0; i < lanes<float>; ++i) h[i] = to_f16(v[i]).bits;
    return h;
  }
  template <class S, class T>
  static inline auto narrow_integers(Vec<T> v) {
    return convert_lanes<S, T, lanes<T>>(v);
  }
  static inline Vec<uint32_t> dot_i16(Vec<uint32_t> acc, Vec<uint32_t> a, Vec<uint32_t> b) {
    const Vec<int32_t> x = reinterpret_cast<Vec<int32_t>>(a), y = reinterpret_cast<Vec<int32_t>>(b);
    const Vec<int32_t> x_lo = reinterpret_cast<Vec<int32_t>>(a << 16) >> 16,
                       y_lo = reinterpret_cast<Vec<int32_t>>(b << 16) >> 16;
    return acc + reinterpret_cast<Vec<uint32_t>>(x_lo) * reinterpret_cast<Vec<uint32_t>>(y_lo) +
           reinterpret_cast<Vec<uint32_t>>(x >> 16) * reinterpret_cast<Vec<uint32_t>>(y >> 16);
  }
  static inline Vec<float> dot_bf16(Vec<float> acc, Vec<uint32_t> a, Vec<uint32_t> b) {
    const Vec<float> a_lo = reinterpret_cast<Vec<float>>(a << 16), a_hi = reinterpret_cast<Vec<float>>(a & 0xffff0000u);
    const Vec<float> b_lo = reinterpret_cast<Vec<float>>(b << 16), b_hi = reinterpret_cast<Vec<float>>(b & 0xffff0000u);
    return acc + a_lo * b_lo + a_hi * b_hi;
  }
};

}  // namespace myops::cpu
