// The general epilogue: a finished tile of sums to D, whatever the dtype, stride or conjugation of C and D.
//
//   D = f(alpha * sums + beta * C), f the activation, rounded once. Used where the micro-kernel cannot write D itself.
//
// A complex tile has two real rows for each row of D: sums of Re(a) * (re, im) and of Im(a) * (re, im) of b. They are
// combined here, and a conjugated A or B only changes signs (ComplexSigns).
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
  int rows, cols;  // of D: half the real ones for a complex tile
  bool conj_a, conj_b, conj_c;
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

template <class T>
static inline void store_complex(const EpilogueArgs<T>& e, T re, T im, const T* c, T* d) {
  re = rounded(e.alpha * re);
  im = rounded(e.alpha * im);
  if (c != nullptr) {
    re += rounded(e.beta * c[0]);
    im += rounded(e.beta * (e.conj_c ? -c[1] : c[1]));
  }
  d[0] = re, d[1] = im;
}

template <class Isa, class T>
void finish_complex(const EpilogueArgs<T>& e, const T* c, T* d) {
  constexpr int L = Isa::template lanes<T>;
  const ComplexSigns<Isa, T> signs(e.conj_a, e.conj_b, e.conj_c, e.beta);
  const bool vectors = e.d_col == 1 && (c == nullptr || e.c_col == 1);
  for (int i = 0; i < e.rows; ++i) {
    const T* r = e.sums + (2 * i) * e.sums_row;
    const T* m = e.sums + (2 * i + 1) * e.sums_row;
    int j = 0;
    if (vectors)
      for (; j < e.cols; j += L / 2) {
        const int n = 2 * (e.cols - j) < L ? 2 * (e.cols - j) : L;
        auto v =
            signs.combined(load_converted<Isa, T, T>(r + 2 * j, n), load_converted<Isa, T, T>(m + 2 * j, n), e.alpha);
        if (c != nullptr) v += rounded(load_converted<Isa, T, T>(c + 2 * (i * e.c_row + j), n) * signs.of_c);
        store_converted<Isa, T, T>(d + 2 * (i * e.d_row + j), v, n);
      }
    else
      for (; j < e.cols; ++j)
        store_complex<T>(
            e, r[2 * j] + signs.of_i[0] * m[2 * j + 1], signs.of_r[1] * r[2 * j + 1] + signs.of_i[1] * m[2 * j],
            c == nullptr ? nullptr : c + 2 * (i * e.c_row + j * e.c_col), d + 2 * (i * e.d_row + j * e.d_col));
  }
}

}  // namespace myops::cpu
