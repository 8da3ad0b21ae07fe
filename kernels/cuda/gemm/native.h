// Which products torch's own kernels compute faster on CUDA (../../route.h). A row holds a measurement in which both
// ran interleaved on one machine (benchmarks/gpu.py, phase timing).
#pragma once
#include "../../route.h"
#include "plan.h"

namespace myops {

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
    {DType::f32, 17, 33, 33, true, "n^3: 128 0.91, 512 0.79, 1024 0.76, 4096 0.89; 4096^2 x 512 with a matrix C 1.05"},
    {DType::f64, 17, 33, 33, true, "1024^3: 0.31; torch's uses tensor cores"},
    {DType::c64, 4, 4, 4, true, "n^3: 512 0.81, 1024 0.73"},
    {DType::c128, 4, 4, 4, true, "n^3: 512 0.31, 1024 0.33; torch's uses tensor cores"},
};

// Where the vendor's tensor-core kernels are at home: aligned rows, and no matrix C that torch copies first.
inline bool is_plain(const Gemm& g) {
  const bool matrix_c = g.C.data != nullptr && g.C.row_stride != 0 && g.C.data != g.D.data;
  return !matrix_c && is_packed(g, g.A, g.A.col_stride == 1, 16) && is_packed(g, g.B, g.B.col_stride == 1, 16) &&
         is_packed(g, g.D, true, 16);
}

// Long sums for so few results that most multiprocessors would have none: of the kernels here skinny alone cuts K, and
// the vendor's all do. Not measured: 64 values of K take a block of wgmma 0.28 us, 4.4 ms where K is 10^6.
inline bool is_long_and_small(const Gemm& g) {
  return g.K >= 2048 && ceil_divide(g.M, 64) * ceil_divide(g.N, 64) * g.batch() <= 32 && !takes_skinny(g);
}

// Operands that would have to be packed, of more than a gigabyte: memory that torch's kernels do not ask for.
inline bool packs_gigabytes(const Gemm& g) {
  if (!has_tensor_floats(g) || takes_tiny_shape(g) || takes_skinny(g)) return false;
  const auto packed = [&](const MatrixView& v, int64_t rows, int64_t cols) {
    return is_packed(g, v, v.col_stride == 1, 16) ? 0 : rows * cols * g.batch() * element_size(g.in);
  };
  return packed(g.A, g.M, g.K) + packed(g.B, g.K, g.N) > int64_t(1) << 30;
}

inline bool native_is_faster(const Gemm& g) {
  if (is_long_and_small(g) || packs_gigabytes(g)) return true;
  const int64_t few = g.M < g.N ? g.M : g.N, many = g.M < g.N ? g.N : g.M;
  for (const NativeRow& row : kNativeIsFaster)
    if (row.type == g.in && few >= row.m && many >= row.n && g.K >= row.k && (row.anyway || is_plain(g))) return true;
  return false;
}

}  // namespace myops
