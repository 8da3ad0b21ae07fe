// The general epilogue: a finished tile of sums to D, whatever the dtype, stride or conjugation of C and D.
//
//   D = f(alpha * sums + beta * C), f the activation, rounded once. Used where the micro-kernel cannot write D itself.
#pragma once
#include "activation.h"
#include "microkernel.h"

namespace myops::cpu {

// Up to a vector of elements of storage S at a stride, as T, and back.
template <class Isa, class T, class S>
inline typename Isa::template Vec<T> gather(const S* p, int64_t stride, int n) {
  if (stride == 1) return load_converted<Isa, T, S>(p, n);
  typename Isa::template Vec<T> v = {};
  for (int j = 0; j < n; ++j) v[j] = load_scalar<T>(p[j * stride]);
  return v;
}

// Converted as a contiguous store does it, to the last bit: instructions and scalar code differ in subnormals and NaN.
template <class Isa, class T, class S>
inline void scatter(S* p, int64_t stride, typename Isa::template Vec<T> v, int n) {
  constexpr int L = Isa::template lanes<T>;
  if (stride == 1) return store_converted<Isa, T, S>(p, v, n);
  S whole[L];
  store_converted<Isa, T, S>(whole, v, L);
  for (int j = 0; j < n; ++j) p[j * stride] = whole[j];
}

template <class T>
struct EpilogueArgs {
  const T* sums;
  int64_t sums_row;
  int rows, cols;  // of D
  bool conj_c;
  T alpha, beta;
  int64_t c_row, c_col, d_row, d_col;  // in elements of C and D
};

template <class Isa, class T, class CS, class DS, Activation kF>
void finish_real(const EpilogueArgs<T>& args, const CS* c, DS* preactivation, DS* d) {
  constexpr int L = Isa::template lanes<T>;
  const EpilogueArgs<T> e = args;  // a copy: what is stored might be the caller's
  const auto finish = [&](int i, int j, int n, int64_t c_col, int64_t d_col) __attribute__((always_inline)) {
    typename Isa::template Vec<T> v = rounded(load_converted<Isa, T, T>(e.sums + i * e.sums_row + j, n) * e.alpha);
    if (c != nullptr) v += rounded(gather<Isa, T, CS>(c + i * e.c_row + j * c_col, c_col, n) * e.beta);
    const int64_t at = i * e.d_row + j * d_col;
    if (kF != Activation::none && preactivation != nullptr) scatter<Isa, T, DS>(preactivation + at, d_col, v, n);
    scatter<Isa, T, DS>(d + at, d_col, activate<Isa, T, DS, kF>(v), n);
  };
  const bool neighbours = e.d_col == 1 && (c == nullptr || e.c_col == 1);
  for (int i = 0; i < e.rows; ++i) {
    int j = 0;
    if (neighbours)
      for (; j + L <= e.cols; j += L) finish(i, j, L, 1, 1);
    for (; j < e.cols; j += L) finish(i, j, e.cols - j < L ? e.cols - j : L, e.c_col, e.d_col);
  }
}

// Of sums that are complex already: (re, im) side by side.
template <class Isa, class T>
void finish_complex(const EpilogueArgs<T>& e, const T* c, T* d) {
  constexpr int L = Isa::template lanes<T>;
  const T re_beta = e.beta, im_beta = e.conj_c ? -e.beta : e.beta;
  const auto beta = alternating<Isa, T>(re_beta, im_beta);
  const bool vectors = e.d_col == 1 && (c == nullptr || e.c_col == 1);
  for (int i = 0; i < e.rows; ++i) {
    const T* const sums = e.sums + i * e.sums_row;
    if (vectors) {
      for (int j = 0; j < 2 * e.cols; j += L) {
        const int n = 2 * e.cols - j < L ? 2 * e.cols - j : L;
        auto v = rounded(load_converted<Isa, T, T>(sums + j, n) * e.alpha);
        if (c != nullptr) v += rounded(load_converted<Isa, T, T>(c + 2 * i * e.c_row + j, n) * beta);
        store_converted<Isa, T, T>(d + 2 * i * e.d_row + j, v, n);
      }
      continue;
    }
    for (int j = 0; j < e.cols; ++j) {
      T re = rounded(e.alpha * sums[2 * j]), im = rounded(e.alpha * sums[2 * j + 1]);
      if (c != nullptr) {
        const T* const added = c + 2 * (i * e.c_row + j * e.c_col);
        re += rounded(re_beta * added[0]), im += rounded(im_beta * added[1]);
      }
      T* const to = d + 2 * (i * e.d_row + j * e.d_col);
      to[0] = re, to[1] = im;
    }
  }
}

}  // namespace myops::cpu
