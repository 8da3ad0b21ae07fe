// D = alpha * A @ B + beta * C by rows.cuh: sums in the accumulator's type, mean, scaling and the addend at the end.
//
// Not here: the switch over dtypes (spmm_float.cu and its neighbours), transposed products (../../spmm.h makes them
// products with the transposed pattern, whose values are read through p.perm).
#pragma once
#include "rows.cuh"

namespace myops {

// The quotient that a mean is: of signed numbers, towards zero, where the sums are modular. Not for uint8.
template <class T>
__device__ __forceinline__ T divided(T sum, int64_t n) {
  return sum / static_cast<T>(n);
}
__device__ __forceinline__ uint32_t divided(uint32_t sum, int64_t n) {
  return static_cast<uint32_t>(static_cast<int32_t>(sum) / n);
}
__device__ __forceinline__ uint64_t divided(uint64_t sum, int64_t n) {
  return static_cast<uint64_t>(static_cast<int64_t>(sum) / n);
}
template <class T>
__device__ __forceinline__ Complex<T> divided(Complex<T> sum, int64_t n) {
  return {divided(sum.re, n), divided(sum.im, n)};
}

template <DType kType, int kNeighbours>
struct Sum {
  using Problem = Spmm;
  using Stored = typename Element<kType>::Type;
  using Acc = typename Element<kType>::Acc;
  using State = Acc;
  static constexpr int kVector = kNeighbours;

  __device__ __forceinline__ static const void* permutation(const Spmm& p) { return p.perm; }
  __device__ __forceinline__ static State start(const Spmm&) { return Acc{}; }
  __device__ __forceinline__ static void add(const Spmm&, State& sum, int64_t, Stored v, Stored x) {
    multiply_add(sum, widen<Acc>(v), widen<Acc>(x));
  }
  __device__ __forceinline__ static State exchange(State sum, int lanes) { return shuffle_xor(sum, lanes); }
  __device__ __forceinline__ static void merge(const Spmm&, State& sum, State other) { sum = plus(sum, other); }

  __device__ __forceinline__ static void finish(const Spmm& p, int64_t row, int64_t column, int64_t entries,
                                                const State (&sums)[kVector]) {
    const auto alpha = Scalar<Acc>::of(p.alpha);
    Acc d[kVector];
    Pack<Stored, kVector> out;
#pragma unroll
    for (int i = 0; i < kVector; ++i) d[i] = sums[i];
    if (p.mean && entries > 1)
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        if constexpr (kType == DType::u8)
          d[i] = static_cast<Acc>(d[i] / entries);
        else
          d[i] = divided(d[i], entries);
      }
#pragma unroll
    for (int i = 0; i < kVector; ++i) d[i] = scale(alpha, d[i]);
    if (p.C != nullptr) {
      const auto beta = Scalar<Acc>::of(p.beta);
      const Stored* c = static_cast<const Stored*>(p.C) + row * p.c_row + column * p.c_col;
#pragma unroll
      for (int i = 0; i < kVector; ++i, c += p.c_col) d[i] = scale_add(beta, widen<Acc>(*c), d[i]);
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) out.v[i] = narrow<Stored>(d[i]);
    Stored* const D = static_cast<Stored*>(p.D) + row * p.N + column;
    if constexpr (kVector == 1)
      *D = out.v[0];
    else
      store_pack(D, out);
  }
};

// 16 bytes at a time where the rows of B and D are made of such packs, else element by element.
template <DType kType>
cudaError_t launch_sum(const Spmm& p, const SparseSession& session) {
  constexpr int kBytes = element_size(kType), kVector = 16 / kBytes;
  if (rows_are_packs(p.B, p.b_row, p.N, kVector, kBytes) && rows_are_packs(p.D, p.N, p.N, kVector, kBytes))
    return launch_rows<Sum<kType, kVector>>(p, session);
  return launch_rows<Sum<kType, 1>>(p, session);
}

}  // namespace myops
