// The end of every product kernel: D = f(alpha * acc + beta * C) for neighbours of one row, rounded once.
//
// Every kernel family ends here, so what follows the sum is one function with one order of operations.
#pragma once
#include "../element.cuh"
#include "activation.cuh"

namespace myops {

// N neighbours along a row, of which `left` exist, in runs of 16 bytes at most; a run is one access where it is
// contiguous and aligned.
template <int N, class T>
constexpr int kRun = N * sizeof(T) <= 16 ? N : 16 / sizeof(T);

template <int N, class T>
__device__ __forceinline__ bool is_pack(const T* address, int64_t stride, int64_t left) {
  return N > 1 && stride == 1 && left >= N && reinterpret_cast<uintptr_t>(address) % (N * sizeof(T)) == 0;
}

template <int N, class T, class Acc>
__device__ __forceinline__ void load_row(Acc (&row)[N], const T* address, int64_t stride, int64_t left, bool conj) {
  constexpr int R = kRun<N, T>;
#pragma unroll
  for (int first = 0; first < N; first += R) {
    const T* run = address + first * stride;
    if (is_pack<R>(run, stride, left - first)) {
      const Pack<T, R> pack = load_pack<Pack<T, R>>(run);
#pragma unroll
      for (int j = 0; j < R; ++j) row[first + j] = conjugate_if(conj, widen<Acc>(pack.v[j]));
    } else {
#pragma unroll
      for (int j = 0; j < R; ++j)
        if (first + j < left) row[first + j] = conjugate_if(conj, widen<Acc>(run[j * stride]));
    }
  }
}

template <int N, class T, class Acc>
__device__ __forceinline__ void store_row(const Acc (&row)[N], T* address, int64_t stride, int64_t left, bool conj) {
  constexpr int R = kRun<N, T>;
#pragma unroll
  for (int first = 0; first < N; first += R) {
    T* run = address + first * stride;
    if (is_pack<R>(run, stride, left - first)) {
      Pack<T, R> pack;
#pragma unroll
      for (int j = 0; j < R; ++j) pack.v[j] = narrow<T>(conjugate_if(conj, row[first + j]));
      store_pack(run, pack);
    } else {
#pragma unroll
      for (int j = 0; j < R; ++j)
        if (first + j < left) run[j * stride] = narrow<T>(conjugate_if(conj, row[first + j]));
    }
  }
}

// One batch item's C and D. The thread that writes an element of D is the one that reads C there, so C may be D.
template <DType kIn>
class Epilogue {
 public:
  using In = typename Element<kIn>::Type;
  using Acc = typename Element<kIn>::Acc;
  using Wide = typename Element<kIn>::Wide;

  __device__ __forceinline__ Epilogue(const Gemm& g, int64_t item)
      : g_(g),
        alpha_(Scalar<Acc>::of(g.alpha)),
        beta_(Scalar<Acc>::of(g.beta)),
        c_base_(g.C.data == nullptr ? 0 : batch_offset(g, g.C, item)),
        d_base_(batch_offset(g, g.D, item)) {}

  // Row `row`, columns col .. col + N - 1, of which those below g.N exist. acc is overwritten.
  template <int N>
  __device__ __forceinline__ void store(Acc (&acc)[N], int64_t row, int64_t col) const {
    const int64_t left = g_.N - col;
    if (row >= g_.M || left <= 0) return;
#pragma unroll
    for (int v = 0; v < N; ++v) acc[v] = scale(alpha_, acc[v]);
    if (g_.C.data != nullptr) {
      const int64_t at = c_base_ + row * g_.C.row_stride + col * g_.C.col_stride;
      Acc c[N] = {};
      if (g_.c_type != kIn)
        load_row(c, static_cast<const Wide*>(g_.C.data) + at, g_.C.col_stride, left, g_.C.conj);
      else
        load_row(c, static_cast<const In*>(g_.C.data) + at, g_.C.col_stride, left, g_.C.conj);
#pragma unroll
      for (int v = 0; v < N; ++v) acc[v] = scale_add(beta_, c[v], acc[v]);
    }
    const int64_t at = d_base_ + row * g_.D.row_stride + col * g_.D.col_stride;
    if (g_.out != kIn)
      finish<Wide>(acc, at, left);
    else
      finish<In>(acc, at, left);
  }

 private:
  // Stores what the activation makes of a row of results, and what it was applied to where that is asked for.
  template <class T, int N>
  __device__ __forceinline__ void finish(Acc (&row)[N], int64_t at, int64_t left) const {
    if (g_.activation != Activation::none) {
      if (g_.preactivation != nullptr)
        store_row(row, static_cast<T*>(g_.preactivation) + at, g_.D.col_stride, left, g_.D.conj);
      if constexpr (sizeof(T) == 2 && std::is_same_v<Acc, float>) {
        activate_fast(row, g_.activation);
      } else {
#pragma unroll
        for (int v = 0; v < N; ++v) row[v] = activate<T>(row[v], g_.activation);
      }
    }
    store_row(row, static_cast<T*>(g_.D.data) + at, g_.D.col_stride, left, g_.D.conj);
  }

  const Gemm& g_;
  const typename Scalar<Acc>::Type alpha_, beta_;
  const int64_t c_base_, d_base_;
};

}  // namespace myops
