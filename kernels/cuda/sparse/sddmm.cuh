// value[e] = sum over n of A[row(e), n] * B[col[e], n]: a group of lanes for each entry, along the columns.
//
// Work is shared out by entries, so no row is too long. A warp takes its entries in order; the row of A is read again
// for each entry, out of the L1 cache, unless the entry before it had the same one.
//
// Bound: the gather of B, kUnroll rows in flight for each group.
#pragma once
#include "pattern.cuh"

namespace myops {

struct SddmmPlan {
  int group_shift = 0;  // log2 of the lanes of an entry
  int64_t blocks = 0;
};

constexpr int kDots = 4;    // entries of a group in flight
constexpr int kRounds = 4;  // of kDots entries, after one search for the row; guess

inline SddmmPlan plan_sddmm(const Csr& A, int64_t N, int64_t vector) {
  SddmmPlan plan;
  while ((1 << plan.group_shift) < kWarpSize && (vector << plan.group_shift) < N) ++plan.group_shift;
  const int64_t blocks = blocks_of(A.nnz, (kThreads >> plan.group_shift) * kDots * kRounds);
  const int64_t checks = blocks_of(A.rows, kThreads);  // a thread looks at one row of crow, too
  plan.blocks = blocks > checks ? blocks : checks;
  return plan;
}

template <DType kType, int kVector>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    sampled_dots(const __grid_constant__ Sddmm p, const __grid_constant__ SddmmPlan plan, unsigned* findings) {
  using T = typename Element<kType>::Type;
  using Acc = typename Element<kType>::Acc;
  const T* const A = static_cast<const T*>(p.a);
  const T* const B = static_cast<const T*>(p.b);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, group = lane >> plan.group_shift;
  const int groups = kWarpSize >> plan.group_shift;  // of a warp
  const int lanes = 1 << plan.group_shift;
  const int64_t first_column = (lane & (lanes - 1)) * kVector;
  if (p.A.rows == 0) return report(findings, Status::bad_crow);  // entries without a row
  if (const int64_t i = thread_in_grid(); i < p.A.rows) row_range(p.A, i, findings);

  const int64_t warp = thread_in_grid() / kWarpSize;
  int64_t e = warp * groups * kDots * kRounds + group, row = 0;
  if (e < p.A.nnz)
    row = lower_bound(p.A.rows - 1, e + 1, [&](int64_t i) { return load_index(p.A.crow, p.A.wide, i + 1); });
  for (int round = 0; round < kRounds; ++round, e += kDots * groups) {
    int64_t rows[kDots], cols[kDots];  // -1: no entry
    Acc dots[kDots] = {};
#pragma unroll
    for (int u = 0; u < kDots; ++u) {
      const int64_t entry = e + u * groups;
      rows[u] = cols[u] = -1;
      if (entry >= p.A.nnz) continue;
      rows[u] = row = row_of_entry(p.A, entry, row);
      cols[u] = load_index(p.A.col, p.A.wide, entry);
      if (inside(cols[u], p.A.cols)) continue;
      report(findings, Status::bad_col);
      rows[u] = cols[u] = -1;
    }
    for (int64_t column = first_column; column < p.N; column += lanes * kVector) {
      Pack<T, kVector> a{}, b[kDots];
#pragma unroll
      for (int u = 0; u < kDots; ++u)
        if (cols[u] >= 0) b[u] = load_neighbours<kVector>(B + cols[u] * p.b_row + column);
#pragma unroll
      for (int u = 0; u < kDots; ++u) {
        if (cols[u] < 0) continue;
        if (u == 0 || rows[u] != rows[u - 1]) a = load_neighbours<kVector>(A + rows[u] * p.a_row + column);
#pragma unroll
        for (int i = 0; i < kVector; ++i) multiply_add(dots[u], widen<Acc>(a.v[i]), widen<Acc>(b[u].v[i]));
      }
    }
    for (int other = 1; other < lanes; other *= 2)  // whole warps come here
#pragma unroll
      for (int u = 0; u < kDots; ++u) dots[u] = plus(dots[u], shuffle_xor(dots[u], other));
#pragma unroll
    for (int u = 0; u < kDots; ++u)
      if (cols[u] >= 0 && first_column == 0) static_cast<T*>(p.values)[e + u * groups] = narrow<T>(dots[u]);
  }
}

template <DType kType, int kVector>
cudaError_t launch_dots(const Sddmm& p, const SparseSession& session) {
  const SddmmPlan plan = plan_sddmm(p.A, p.N, kVector);
  return launch_kernel(&sampled_dots<kType, kVector>, grid_of(plan.blocks), dim3(kThreads), 0, session.stream, p, plan,
                       session.findings);
}

// 16 bytes at a time where the rows of both operands are made of such packs, else element by element.
template <DType kType>
cudaError_t launch_sampled(const Sddmm& p, const SparseSession& session) {
  constexpr int kBytes = element_size(kType), kVector = 16 / kBytes;
  if (rows_are_packs(p.a, p.a_row, p.N, kVector, kBytes) && rows_are_packs(p.b, p.b_row, p.N, kVector, kBytes))
    return launch_dots<kType, kVector>(p, session);
  return launch_dots<kType, 1>(p, session);
}

}  // namespace myops
