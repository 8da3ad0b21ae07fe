// Storage types, their conversions, and the vector types of the engine. No torch.
//
// Vocabulary: T is the type that is computed in (float, double, uint32_t, uint64_t), S a type that is stored.
// Integers are computed unsigned, where overflow wraps by definition. Functions are static: see isa/engine.h.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "isa/float16.h"

namespace myops::cpu {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// Not std::complex, whose multiplication checks for infinities.
template <class T>
struct Complex {
  T re, im;
};

static inline float to_float(bf16 v) { return bit_cast<float>(static_cast<uint32_t>(v.bits) << 16); }
static inline float to_float(f16 v) { return binary16_to_float(v.bits); }

// Round to nearest, ties to even; a NaN stays a (quiet) NaN.
static inline bf16 to_bf16(float v) {
  const uint32_t bits = bit_cast<uint32_t>(v);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

static inline f16 to_f16(float v) { return {float_to_binary16(v)}; }

// What alpha and beta are as T.
template <class T>
static inline T scalar(double v) {
  if constexpr (static_cast<T>(-1) > static_cast<T>(0))  // unsigned: integers modulo 2^w
    return static_cast<T>(static_cast<int64_t>(v));
  else
    return static_cast<T>(v);
}

// Scalar load and store between storage and compute types.
template <class T, class S>
static inline T load_scalar(S v) {
  return static_cast<T>(v);
}
template <>
inline float load_scalar<float, bf16>(bf16 v) {
  return to_float(v);
}
template <>
inline float load_scalar<float, f16>(f16 v) {
  return to_float(v);
}
template <class S, class T>
static inline S store_scalar(T v) {
  return static_cast<S>(v);
}
template <>
inline bf16 store_scalar<bf16, float>(float v) {
  return to_bf16(v);
}
template <>
inline f16 store_scalar<f16, float>(float v) {
  return to_f16(v);
}

template <class T, int Bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes)));
  typedef T unaligned __attribute__((vector_size(Bytes), aligned(alignof(T)), may_alias));
};

// Integer lanes widened by doubling or narrowed by halving, which drops the upper bits: gcc 12 takes a conversion
// between 8 and 32 bits apart lane by lane.
template <class To, class From, int Lanes>
static inline typename VectorOf<To, Lanes * sizeof(To)>::type convert_lanes(
    typename VectorOf<From, Lanes * sizeof(From)>::type v) {
  if constexpr (sizeof(To) <= 2 * sizeof(From) && sizeof(From) <= 2 * sizeof(To)) {
    return __builtin_convertvector(v, typename VectorOf<To, Lanes * sizeof(To)>::type);
  } else {
    constexpr bool kShort = sizeof(From) == 1 || (sizeof(From) == 4 && sizeof(To) == 1);  // 16 bits in between, else 32
    using Middle = std::conditional_t<kShort, std::conditional_t<std::is_signed_v<From>, int16_t, uint16_t>,
                                      std::conditional_t<std::is_signed_v<From>, int32_t, uint32_t>>;
    return convert_lanes<To, Middle, Lanes>(
        __builtin_convertvector(v, typename VectorOf<Middle, Lanes * sizeof(Middle)>::type));
  }
}

#if defined(MYOPS_IN_REGISTER)  // an emulation, whose vectors are wider than registers
#elif defined(__x86_64__) || defined(_M_X64)
#define MYOPS_IN_REGISTER "+v"
#elif defined(__aarch64__)
#define MYOPS_IN_REGISTER "+w"
#elif defined(__VSX__)
#define MYOPS_IN_REGISTER "+wa"
#else
#define MYOPS_IN_REGISTER "+m"
#endif

// Makes the compiler forget what a register holds, so that nothing is hoisted out of a loop that is timed.
template <class V>
static inline void opaque(V& v) {
  asm volatile("" : MYOPS_IN_REGISTER(v));
}

// p, by no instruction: what the compiler knows of how it was computed, it forgets.
template <class T>
static inline T* computed(T* p) {
  asm("" : "+r"(p));
  return p;
}

// v, in a register: it is not read from memory again wherever it is used.
template <class V>
static inline V in_register(V v) {
  asm("" : MYOPS_IN_REGISTER(v));
  return v;
}

// v, rounded to its type: the compiler may not fuse the product that made it into a sum. It would in one instance of a
// template and not in the next, and the same result would have different bits.
template <class V>
static inline V rounded(V v) {
  return in_register(v);
}

// What a driver needs of the process: threads and scratch memory, so that engines know no torch.
struct Runtime {
  int threads = 1;
  int long_columns = 4;  // of x @ W.T, which are read side by side against one row of x
  // Calls body(arg, begin, end) over disjoint ranges that cover [0, tasks).
  void (*parallel)(int64_t tasks, void (*body)(void* arg, int64_t begin, int64_t end), void* arg) = nullptr;
  // Memory of at least `bytes`, aligned to 64, valid until the call of the engine returns.
  void* (*allocate)(void* cookie, int64_t bytes) = nullptr;
  void* cookie = nullptr;
};

// Calls body(begin, end) over disjoint ranges that cover [0, tasks): on threads, or where not `parallel` once.
template <class Body>
static inline void for_ranges(const Runtime& rt, bool parallel, int64_t tasks, const Body& body) {
  if (!parallel) return body(int64_t{0}, tasks);
  const auto call = [](void* arg, int64_t begin, int64_t end) { (*static_cast<const Body*>(arg))(begin, end); };
  rt.parallel(tasks, call, const_cast<Body*>(&body));
}

}  // namespace myops::cpu
