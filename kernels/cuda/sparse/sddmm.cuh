// value[e] = alpha * sum over n of A[row(e), n] * B[col[e], n] + beta * C[e]: a team of lanes for kDots entries of a
// row at a time.
//
// Work is shared out by entries, so no row is too long: a team walks a span of them, in batches that stay within a row.
// Its lanes lie along the columns; the row of A is read once a batch, kDots rows of B are in flight, and the sums of
// the lanes meet in an exchange that leaves one dot to each lane. Where a batch is short its last entry stands in for
// the missing ones, and nobody writes them.
//
// Wide rows are walked a tile of columns at a time, the whole span for each, and the dots wait in shared memory: all
// blocks are in about the same tile, whose part of B fits the L2 cache, or the L1 cache where rows are long. There
// teams also read the same rows of B at about the same time, because they walk from about the same column.
//
// Bound: the gather of B.
#pragma once
#include <algorithm>

#include "pattern.cuh"
#include "rows.h"

namespace myops {

constexpr int kDotLanes = 8, kDots = 8;  // equal: one dot is left to each lane
constexpr int kDotTeams = kThreads / kDotLanes;
constexpr int kDotBlocks = 3;  // on a multiprocessor at once
constexpr int64_t kSpansWanted = 132 * kDotBlocks * kDotTeams;
constexpr int64_t kMostSumBytes = 32 * 1024;  // of a block: three fit in the 100 KB of the smallest multiprocessors
constexpr int64_t kDotTileBytes = 1 << 19;    // of B, that mostly stay in the L1 cache
constexpr int64_t kDotLongRows = 64;          // entries on average, for that

struct SddmmPlan {
  int span = 0;      // entries of a team
  int64_t tile = 0;  // columns at a time
  int64_t blocks = 0;
};

// bytes: of an element of B; sum_bytes: of a dot.
inline SddmmPlan plan_sddmm(const Csr& A, int64_t vector, int64_t bytes, int64_t sum_bytes) {
  SddmmPlan plan;
  const int64_t wanted = blocks_of(blocks_of(A.nnz, kSpansWanted), kDots) * kDots;
  const int64_t most = kMostSumBytes / (kDotTeams * sum_bytes), least = kDots;
  const int64_t span = std::max(std::min(wanted, most), least);
  plan.span = static_cast<int>(span);
  const int64_t narrow = std::max(kDotLanes * vector, 128 / bytes);  // a line of a row of B, whole steps of the lanes
  plan.tile = A.nnz >= A.rows * kDotLongRows && A.cols * narrow * bytes <= kDotTileBytes ? narrow : 2 * narrow;
  // Blocks without entries help to check a crow of many rows.
  plan.blocks = std::max(std::min(blocks_of(A.rows, 8 * kThreads), kBlocksWanted), blocks_of(A.nnz, kDotTeams * span));
  return plan;
}

// Each lane's sums of kDots dots become the whole sum of dot number `lane`.
template <class Acc>
__device__ __forceinline__ Acc dot_of_lane(Acc (&dots)[kDots], int lane) {
#pragma unroll
  for (int half = kDots / 2; half > 0; half /= 2) {
    const bool upper = (lane & half) != 0;
#pragma unroll
    for (int u = 0; u < half; ++u) {
      const Acc kept = upper ? dots[u + half] : dots[u], given = upper ? dots[u] : dots[u + half];
      dots[u] = plus(kept, shuffle_xor(given, half));
    }
  }
  return dots[0];
}

template <DType kType, int kVector>
__global__ void __launch_bounds__(kThreads, sizeof(typename Element<kType>::Acc) == 4 ? kDotBlocks : kBlocksAtOnce)
    sampled_dots(const __grid_constant__ Sddmm p, const __grid_constant__ SddmmPlan plan, unsigned* findings) {
  using T = typename Element<kType>::Type;
  using Acc = typename Element<kType>::Acc;
  struct Rows {
    int64_t of[2];
  };
  Rows& shared = shared_storage<Rows>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kDotLanes, team = thread / kDotLanes;
  for (int64_t i = thread_in_grid(); i < p.A.rows; i += static_cast<int64_t>(gridDim.x) * kThreads)
    row_range(p.A, i, findings);
  if (p.A.rows == 0 && (p.A.nnz != 0 || load_index(p.A.crow, p.A.wide, 0) != 0))
    return report(findings, Status::bad_crow);  // entries without a row
  if (p.A.nnz == 0) return;
  if (p.A.cols == 0) return report(findings, Status::bad_col);

  const auto end_of = [&](int64_t row) { return load_index(p.A.crow, p.A.wide, row + 1); };
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kDotTeams * plan.span;
  if (first >= p.A.nnz) return;
  if (const int warp = thread / kWarpSize; warp < 2) {  // the rows of the first entry, and of the first after the block
    const int64_t entry = first + warp * kDotTeams * plan.span;
    const int64_t row = count_in_warp(p.A.rows - 1, [&](int64_t i) { return end_of(i) <= entry; });
    if (thread % kWarpSize == 0) shared_store(&shared.of[warp], row);
  }
  __syncthreads();
  const int64_t begin = first + team * plan.span;
  const int64_t left = p.A.nnz - begin;
  const int count = left < plan.span ? static_cast<int>(left < 0 ? 0 : left) : plan.span;
  int64_t first_row = shared_load(&shared.of[0]);
  first_row +=
      lower_bound(shared_load(&shared.of[1]) - first_row, begin + 1, [&](int64_t i) { return end_of(first_row + i); });
  const auto end_in_span = [&](int64_t row) {
    const int64_t end = end_of(row);  // of a wrong crow any number
    return end <= begin ? 0 : end < begin + count ? static_cast<int>(end - begin) : count;
  };
  Acc* const sums = dynamic_shared<Acc>() + team * plan.span;  // of this team's entries; a lane reads what it wrote

#pragma unroll 1
  for (int64_t tile = 0; tile == 0 || tile < p.N; tile += plan.tile) {
    const int64_t columns = tile + plan.tile < p.N ? tile + plan.tile : p.N;
    int64_t row = first_row;
    int e = 0, row_end = end_in_span(row);
    while (__ballot_sync(kAllLanes, e < count) != 0) {  // whole warps
      int n = 0;
      uint32_t col = 0;
      if (e < count) {
        for (int tries = 0; row_end <= e && row + 1 < p.A.rows; ++tries) {
          ++row;
          if (tries == 2)  // many empty rows
            row += lower_bound(shared_load(&shared.of[1]) - row, begin + e + 1,
                               [&](int64_t i) { return end_of(row + i); });
          row_end = end_in_span(row);
        }
        n = row_end - e < 1 ? 1 : row_end - e < kDots ? row_end - e : kDots;
        const int64_t at = load_index(p.A.col, p.A.wide, begin + e + (lane < n ? lane : n - 1));
        if (inside(at, p.A.cols))
          col = static_cast<uint32_t>(at);
        else
          report(findings, Status::bad_col);
      }
      uint32_t cols[kDots];
      Acc dots[kDots] = {};
#pragma unroll
      for (int u = 0; u < kDots; ++u) cols[u] = __shfl_sync(kAllLanes, col, u, kDotLanes);
      if (n > 0) {
        const T *const A = static_cast<const T*>(p.a) + row * p.a_row, *const B = static_cast<const T*>(p.b);
#pragma unroll 1
        for (int64_t column = tile + lane * kVector; column < columns; column += kDotLanes * kVector) {
          Pack<T, kVector> b[kDots];
          const auto a = load_neighbours<kVector>(A + column);
#pragma unroll
          for (int u = 0; u < kDots; ++u) b[u] = load_neighbours<kVector>(B + (cols[u] * p.b_row + column));
#pragma unroll
          for (int u = 0; u < kDots; ++u)
#pragma unroll
            for (int i = 0; i < kVector; ++i) multiply_add(dots[u], widen<Acc>(a.v[i]), widen<Acc>(b[u].v[i]));
        }
      }
      Acc dot = dot_of_lane(dots, lane);
      if (lane < n) {
        Acc* const sum = sums + e + lane;
        if (tile > 0) dot = plus(shared_load(sum), dot);
        if (columns != p.N) {
          shared_store(sum, dot);
        } else {
          const int64_t at = begin + e + lane;
          dot = scale(Scalar<Acc>::of(p.alpha), dot);
          if (p.C != nullptr) dot = scale_add(Scalar<Acc>::of(p.beta), widen<Acc>(static_cast<const T*>(p.C)[at]), dot);
          static_cast<T*>(p.values)[at] = narrow<T>(dot);
        }
      }
      e += n;
    }
  }
}

template <DType kType, int kVector>
cudaError_t launch_dots(const Sddmm& p, const SparseSession& session) {
  constexpr int kSumBytes = sizeof(typename Element<kType>::Acc);
  if (p.A.cols > kMostColumns) return cudaErrorInvalidValue;
  const SddmmPlan plan = plan_sddmm(p.A, kVector, element_size(kType), kSumBytes);
  const size_t sums = p.N > plan.tile ? kDotTeams * plan.span : 1;  // the emulation knows no empty shared memory
  const size_t shared = sums * kSumBytes;
  return launch_kernel(&sampled_dots<kType, kVector>, grid_of(plan.blocks), dim3(kThreads), shared, session.stream, p,
                       plan, session.findings);
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
