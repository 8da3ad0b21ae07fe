// The roof of the benchmarks: multiply-adds on registers alone, measured in the process that is being judged.
#pragma once
#include <ctime>

#include "microkernel.h"

namespace myops::cpu {

static inline double seconds_now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// GFLOP/s (two operations a multiply-add, four for a pair) of one core for about `seconds`.
template <class Isa, class C>
double peak_of(double seconds, double operations_per_lane) {
  constexpr int kChains = 12;  // latency 4 x 2 ports leaves none idle with 8
  typename C::Vec acc[kChains] = {};
  typename C::Operand b = {};
  auto a = decltype(C::scalar(nullptr)){} + 1;
  opaque(a);  // not a known one, or the multiplication by it would go
  double best = 0;
  for (const double end = seconds_now() + seconds; seconds_now() < end;) {
    const double start = seconds_now();
    constexpr int kRounds = 20000;
    for (int r = 0; r < kRounds; ++r) {
#pragma GCC unroll 12
      for (int i = 0; i < kChains; ++i) {
        opaque(b);
        acc[i] = C::multiply_add(acc[i], a, b);
        opaque(acc[i]);
      }
    }
    const double rate = 1e-9 * kRounds * kChains * C::kLanes * operations_per_lane / (seconds_now() - start);
    if (rate > best) best = rate;
  }
  return best;
}

template <class Isa>
double peak_rate(DType type, double seconds) {
  switch (type) {
    case DType::f64:
    case DType::c128: return peak_of<Isa, Real<Isa, double, double>>(seconds, 2);
    case DType::i64: return peak_of<Isa, Real<Isa, uint64_t, uint64_t>>(seconds, 2);
    case DType::i8:
      if constexpr (Isa::kInt8Dot) return peak_of<Isa, ByteDot<Isa, int8_t>>(seconds, 8);
      return peak_of<Isa, Real<Isa, uint32_t, uint32_t>>(seconds, 2);
    case DType::bf16:
      if constexpr (Isa::kBf16Dot) return peak_of<Isa, PairDot<Isa, bf16, float>>(seconds, 4);
      [[fallthrough]];
    case DType::f32:
    case DType::f16:
    case DType::c64: return peak_of<Isa, Real<Isa, float, float>>(seconds, 2);
    default: return peak_of<Isa, Real<Isa, uint32_t, uint32_t>>(seconds, 2);
  }
}

}  // namespace myops::cpu
