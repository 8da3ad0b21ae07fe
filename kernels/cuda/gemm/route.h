// Whether a product goes to the kernels of this library or to torch's own, plain C++.
//
// MYOPS_CUDA_GEMM=own     always this library's
// MYOPS_CUDA_GEMM=native  torch's wherever torch has a kernel that takes the operands as they are
// MYOPS_CUDA_GEMM=auto    (default) torch's where kNativeIsFaster has a row for it
//
// A batch-invariant product never leaves: torch's kernels choose their order of sums by M.
//
// A row needs a measurement in which both ran interleaved on one machine (benchmarks/gpu.py, phase timing); until there
// is one, its note says so, and the row errs on the side of what is known: the vendor's kernel.
#pragma once
#include <cstdlib>
#include <cstring>

#include "plan.h"

namespace myops {

enum class Route : int8_t { own, native };
enum class RouteMode : int8_t { own, native, automatic };

// Plain products (is_plain) whose every side is at least `least`.
struct NativeRow {
  DType type;
  int64_t least;
  const char* measured;
};
constexpr NativeRow kNativeIsFaster[] = {
    {DType::bf16, 256, "nothing measured yet; published hand-written kernels reach 0.9 to 1.05 of cuBLASLt"},
    {DType::f16, 256, "nothing measured yet; as bfloat16"},
    {DType::f32, 256, "nothing measured yet; tile.cuh is not tuned, cuBLAS reaches 0.7 to 0.75 of the peak"},
    {DType::f64, 64, "nothing measured yet; tile.cuh uses no tensor cores, cuBLAS does"},
    {DType::c64, 64, "nothing measured yet; tile.cuh is not tuned"},
    {DType::c128, 64, "nothing measured yet; tile.cuh is not tuned"},
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

// Where the vendor's kernels are at home: aligned rows, nothing broadcast, and no matrix C, which torch copies first.
inline bool is_plain(const Gemm& g) {
  const bool matrix_c = g.C.data != nullptr && g.C.row_stride != 0;
  const bool broadcast = g.batch_dims == 1 && (g.A.batch_stride[0] == 0 || g.B.batch_stride[0] == 0);
  return !matrix_c && !broadcast && is_packed(g, g.A, g.A.col_stride == 1, 16) &&
         is_packed(g, g.B, g.B.col_stride == 1, 16) && is_packed(g, g.D, true, 16);
}

inline Route choose_route(const Gemm& g, RouteMode mode) {
  if (mode == RouteMode::own || g.batch_invariant || !native_takes(g)) return Route::own;
  if (mode == RouteMode::native) return Route::native;
  for (const NativeRow& row : kNativeIsFaster)
    if (row.type == g.in && g.M >= row.least && g.N >= row.least && g.K >= row.least && is_plain(g))
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
