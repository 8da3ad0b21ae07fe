// Whether a product goes to the kernels of this library or to torch's own, plain C++.
//
// MYOPS_CUDA_GEMM=own     always this library's
// MYOPS_CUDA_GEMM=native  torch's wherever torch has a kernel that takes the operands as they are
// MYOPS_CUDA_GEMM=auto    (default) torch's where kNativeIsFaster has a row for it
//
// A batch-invariant product never leaves: torch's kernels choose their order of sums by M.
//
// A row holds a measurement in which both ran interleaved on one machine (benchmarks/gpu.py, phase timing).
#pragma once
#include <cstdlib>
#include <cstring>

#include "plan.h"

namespace myops {

enum class Route : int8_t { own, native };
enum class RouteMode : int8_t { own, native, automatic };

// Products with at least m rows, n columns (or the other way round) and a depth of k: the plain ones (is_plain), or
// `anyway` with a matrix C and rows that are not aligned, too. measured: torch's time over ours, H200, torch 2.11 with
// CUDA 13.0 (benchmarks/results/gpu-h200.txt).
struct NativeRow {
  DType type;
  int64_t m, n, k;
  bool anyway;
  const char* measured;
};
constexpr NativeRow kNativeIsFaster[] = {
    {DType::bf16, 17, 17, 64, false, "n^3: 1024 0.78, 2048 0.90, 4096 0.97, 8192 1.01; 64 of 512 x 512 x 64 0.76"},
    {DType::f16, 17, 17, 64, false, "n^3: 1024 0.79, 2048 0.90, 4096 0.98, 8192 1.01"},
    {DType::bf16, 1, 8192, 1024, false,
     "x @ W.T, K = 4096, N = 14336: one row 0.90, eight 0.86; N = 4096: 1.03 to 1.16"},
    {DType::f16, 1, 8192, 1024, false, "as bfloat16"},
    {DType::f32, 33, 33, 33, true, "n^3: 128 0.91, 512 0.79, 1024 0.76, 4096 0.89; 4096^2 x 512 with a matrix C 1.05"},
    {DType::f64, 33, 33, 33, true, "1024^3: 0.31; torch's uses tensor cores"},
    {DType::c64, 4, 4, 4, true, "n^3: 512 0.81, 1024 0.73"},
    {DType::c128, 4, 4, 4, true, "n^3: 512 0.31, 1024 0.33; torch's uses tensor cores"},
};

// What torch's kernels take through strides, without a copy and at most one batch dimension: no conjugate views, no
// mixed dtypes, no integers, no activation.
inline bool native_takes(const Gemm& g) {
  if (g.activation != Activation::none) return false;
  if (is_integral(g.in) || g.out != g.in || g.c_type != g.in || g.batch_dims > 1 || g.K == 0) return false;
  if (g.A.conj || g.B.conj || g.C.conj || g.D.conj) return false;
  const auto blas = [](const MatrixView& v, int64_t rows, int64_t cols) {
    return (v.col_stride == 1 && v.row_stride >= cols) || (v.row_stride == 1 && v.col_stride >= rows);
  };
  return blas(g.A, g.M, g.K) && blas(g.B, g.K, g.N) && g.D.col_stride == 1 && g.D.row_stride >= g.N;
}

inline bool broadcasts_batch(const Gemm& g) {
  return g.batch_dims == 1 && (g.A.batch_stride[0] == 0 || g.B.batch_stride[0] == 0);
}

// Where the vendor's tensor-core kernels are at home: aligned rows, and no matrix C, which torch copies first.
inline bool is_plain(const Gemm& g) {
  const bool matrix_c = g.C.data != nullptr && g.C.row_stride != 0;
  return !matrix_c && is_packed(g, g.A, g.A.col_stride == 1, 16) && is_packed(g, g.B, g.B.col_stride == 1, 16) &&
         is_packed(g, g.D, true, 16);
}

inline Route choose_route(const Gemm& g, RouteMode mode) {
  if (mode == RouteMode::own || g.batch_invariant || !native_takes(g)) return Route::own;
  if (mode == RouteMode::native) return Route::native;
  if (broadcasts_batch(g)) return Route::own;
  const int64_t few = g.M < g.N ? g.M : g.N, many = g.M < g.N ? g.N : g.M;
  for (const NativeRow& row : kNativeIsFaster)
    if (row.type == g.in && few >= row.m && many >= row.n && g.K >= row.k && (row.anyway || is_plain(g)))
      return Route::native;
  return Route::own;
}

// False where `text` is none of the three.
inline bool parse_route_mode(const char* text, RouteMode* mode) {
  constexpr const char* kNames[] = {"own", "native", "auto"};
  for (int i = 0; i < 3; ++i)
    if (std::strcmp(text, kNames[i]) == 0) {
      *mode = static_cast<RouteMode>(i);
      return true;
    }
  return false;
}

}  // namespace myops
