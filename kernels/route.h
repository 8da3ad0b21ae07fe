// Whether a product goes to the kernels of this library or to torch's own, plain C++.
//
// MYOPS_CPU_GEMM, MYOPS_CUDA_GEMM:
//   own     always this library's
//   native  torch's wherever torch has a kernel that takes the operands as they are
//   auto    (default) torch's where it is faster, by a table with its measurements: {cpu,cuda}/gemm/native.h
//
// A batch-invariant product never leaves: torch's kernels choose their order of sums by M.
#pragma once
#include <cstring>

#include "matrix_view.h"

namespace myops {

enum class Route : int8_t { own, native };
enum class RouteMode : int8_t { own, native, automatic };
constexpr const char* kRouteModes[] = {"own", "native", "auto"};

// What torch's kernels take through strides, without a copy and at most one batch dimension: no conjugate views but of
// matrices that are transposed as well, no mixed dtypes, no integers, no activation, no packed weight.
inline bool native_takes(const Gemm& g) {
  if (g.activation != Activation::none || g.b_panels) return false;
  if (is_integral(g.in) || g.out != g.in || g.c_type != g.in || g.batch_dims > 1 || g.K == 0) return false;
  if (g.C.conj || g.D.conj) return false;
  const auto in_rows = [](int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride) {
    return (cols == 1 || col_stride == 1) && (rows == 1 || row_stride >= cols);
  };
  const auto blas = [&](const MatrixView& v, int64_t rows, int64_t cols) {
    if (v.conj && (g.batch_dims > 0 || v.row_stride != 1)) return false;
    return in_rows(rows, cols, v.row_stride, v.col_stride) || in_rows(cols, rows, v.col_stride, v.row_stride);
  };
  return blas(g.A, g.M, g.K) && blas(g.B, g.K, g.N) && in_rows(g.M, g.N, g.D.row_stride, g.D.col_stride);
}

inline bool broadcasts_batch(const Gemm& g) {
  return g.batch_dims == 1 && (g.A.batch_stride[0] == 0 || g.B.batch_stride[0] == 0);
}

// native_is_faster(g): the device's table.
template <class Table>
Route choose_route(const Gemm& g, RouteMode mode, const Table& native_is_faster) {
  if (mode == RouteMode::own || g.batch_invariant || !native_takes(g)) return Route::own;
  if (mode == RouteMode::native) return Route::native;
  return !broadcasts_batch(g) && native_is_faster(g) ? Route::native : Route::own;
}

// False where `text` is none of the three.
inline bool parse_route_mode(const char* text, RouteMode* mode) {
  for (int i = 0; i < 3; ++i)
    if (std::strcmp(text, kRouteModes[i]) == 0) {
      *mode = static_cast<RouteMode>(i);
      return true;
    }
  return false;
}

}  // namespace myops
