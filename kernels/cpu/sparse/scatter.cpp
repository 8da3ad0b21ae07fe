// D = beta * C, or zeros; then every entry adds its row of B to a row of D.
//
// Bound: D is written once, by all threads, and rows of it are read and written again by one. By rows, which spmm.h
// needs, such a matrix takes a start of each row and an order of them, several times as long as the product itself.
#include "scatter.h"

#include "scalar.h"

namespace myops::cpu {
namespace {

constexpr int64_t kShareBytes = 1 << 18;  // of D that are worth a thread

template <class T, class S>
void set_rows(const Spmm& p, int64_t begin, int64_t end, int U) {
  const int64_t width = p.N * U;
  S* const d = static_cast<S*>(p.D);
  const S* const c = static_cast<const S*>(p.C);
  if (c == nullptr) {
    std::memset(d + begin * width, 0, (end - begin) * width * sizeof(S));
    return;
  }
  const T beta = scalar<T>(p.beta);
  for (int64_t i = begin; i < end; ++i) {
    const S* const from = c + i * p.c_row * U;
    if (p.c_col == 1)
      for (int64_t j = 0; j < width; ++j) d[i * width + j] = store_scalar<S>(load_scalar<T>(from[j]) * beta);
    else
      for (int64_t j = 0; j < width; ++j)
        d[i * width + j] = store_scalar<S>(load_scalar<T>(from[j / U * p.c_col * U + j % U]) * beta);
  }
}

template <class T, class S, bool Cx, class I>
void add_rows(const Spmm& p, const I* row, const I* col) {
  constexpr int U = Cx ? 2 : 1;
  const S* const values = static_cast<const S*>(p.values);
  const T alpha = scalar<T>(p.alpha);
  for (int64_t e = 0; e < p.A.nnz; ++e) {
    S* const d = static_cast<S*>(p.D) + row[e] * p.N * U;
    const S* const b = static_cast<const S*>(p.B) + col[e] * p.b_row * U;
    const auto add = [&](int64_t step) {
      const T re = load_scalar<T>(values[U * e]) * alpha;
      if constexpr (Cx) {
        const T im = values[U * e + 1] * alpha;
        for (int64_t j = 0; j < p.N; ++j) {
          const T x = b[2 * j * step], y = b[2 * j * step + 1];
          d[2 * j] += re * x - im * y;
          d[2 * j + 1] += re * y + im * x;
        }
      } else {
        for (int64_t j = 0; j < p.N; ++j)
          d[j] = store_scalar<S>(load_scalar<T>(d[j]) + re * load_scalar<T>(b[j * step]));
      }
    };
    if (p.b_col == 1)
      add(1);
    else
      add(p.b_col);
  }
}

template <class T, class S, bool Cx, class I>
Status scatter_typed(const ScatterSpmm& problem, const Runtime& rt) {
  const Spmm& p = problem.spmm;
  const I *row = static_cast<const I*>(problem.row), *col = static_cast<const I*>(p.A.col);
  if (!columns_inside(row, p.A.nnz, p.A.rows)) return Status::bad_crow;
  if (!columns_inside(col, p.A.nnz, p.A.cols)) return Status::bad_col;
  constexpr int U = Cx ? 2 : 1;
  const int64_t bytes = p.N * U * static_cast<int64_t>(sizeof(S));
  const int64_t step = bytes < kShareBytes ? kShareBytes / bytes : 1;
  take_turns(rt, (p.A.rows + step - 1) / step, [&](int64_t share) {
    const int64_t end = (share + 1) * step;
    set_rows<T, S>(p, share * step, end < p.A.rows ? end : p.A.rows, U);
  });
  add_rows<T, S, Cx>(p, row, col);
  return Status::ok;
}

}  // namespace

Status scatter(const ScatterSpmm& problem, const Runtime& rt) {
  return with_sum_types(problem.spmm.type, [&](auto types) {
    using Of = decltype(types);
    using T = typename Of::Lane;
    using S = typename Of::StoredLane;
    return problem.spmm.A.wide ? scatter_typed<T, S, Of::kComplex, int64_t>(problem, rt)
                               : scatter_typed<T, S, Of::kComplex, int32_t>(problem, rt);
  });
}

}  // namespace myops::cpu
