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

// Products whose every side is at least `least`: the plain ones (is_plain), or `anyway` with a matrix C and rows that
// are not aligned, too. measured: torch's time over ours, H100, torch 2.11 with CUDA 13.0.
struct NativeRow {
  DType type;
  int64_t least;
  bool anyway;
  const char* measured;
};
constexpr NativeRow kNativeIsFaster[] = {
    {DType::bf16, 256, false, "n^3: 1024 0.73, 2048 0.90, 4096 0.98, 8192 1.04; with a matrix C 1.20 to 1.45"},
    {DType::f16, 256, false, "n^3: 1024 0.73, 2048 0.90, 4096 0.98, 8192 1.02"},
    {DType::f32, 33, true, "n^3: 128 0.47, 512 0.34, 1024 0.58, 4096 0.57; 4096^2 x 512 with a matrix C 0.64"},
    {DType::f64, 33, true, "1024^3: 0.30; torch's uses tensor cores"},
    {DType::c64, 33, true, "n^3: 512 0.57, 1024 0.76"},
    {DType::c128, 33, true, "n^3: 512 0.09, 1024 0.25; torch's uses tensor cores"},
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
  for (const NativeRow& row : kNativeIsFaster)
    if (row.type == g.in && g.M >= row.least && g.N >= row.least && g.K >= row.least && !broadcasts_batch(g) &&
        (row.anyway || is_plain(g)))
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
